"""The corpus on disk: plan, prompts, ranges, finished files. Imports no torch and no engine."""
