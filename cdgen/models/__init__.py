"""Lean decoders: the Llama family, GPT-2 and GPT-NeoX over a static KV cache."""
