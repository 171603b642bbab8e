"""Runs of `cdgen generate`: from checkpoints, prompts and settings to a corpus."""
