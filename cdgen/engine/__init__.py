"""Engines: from prompts to sequences of tokens, in a fixed number of slots."""
