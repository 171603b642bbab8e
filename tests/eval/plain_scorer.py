"""A plain scorer for BabyLM: a Llama in NumPy, float64, one text at a time, without any code of
cdgen.

The choice is the first of the largest sums of log p(token | tokens before) over the tokens that end
after the completion begins, as in babylm/evaluation-pipeline-2025.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer


class PlainScorer:
    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = {
            k: v.astype(float) for k, v in load_file(folder / "model.safetensors").items()
        }
        self.layers = [
            {k.split(f".{i}.", 1)[1]: v for k, v in self.weights.items() if f".layers.{i}." in k}
            for i in range(self.config["num_hidden_layers"])
        ]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def score(self, text: str, completion: str) -> float:
        encoding = self.tokenizer.encode(text)
        log_probs = self.log_probs(encoding.ids)
        start = len(text) - len(completion)
        ends = [end for _, end in encoding.offsets]
        return sum(
            log_probs[i - 1][encoding.ids[i]] for i in range(1, len(ends)) if ends[i] > start
        )

    def log_probs(self, ids: list[int]) -> np.ndarray:  # [T, V]
        w = self.weights
        x = w["model.embed_tokens.weight"][ids]
        for own in self.layers:
            x = x + self.attention(self.norm(x, own["input_layernorm.weight"]), own)
            y = self.norm(x, own["post_attention_layernorm.weight"])
            gate = y @ own["mlp.gate_proj.weight"].T
            hidden = gate / (1 + np.exp(-gate)) * (y @ own["mlp.up_proj.weight"].T)
            x = x + hidden @ own["mlp.down_proj.weight"].T
        head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
        logits = self.norm(x, w["model.norm.weight"]) @ head.T
        logits = logits - logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def norm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + self.config["rms_norm_eps"]) * weight

    def attention(self, x: np.ndarray, own: dict[str, np.ndarray]) -> np.ndarray:
        c = self.config
        width = c["head_dim"]
        q, k, v = (
            (x @ own[f"self_attn.{name}_proj.weight"].T).reshape(len(x), -1, width).swapaxes(0, 1)
            for name in "qkv"
        )
        angle = np.arange(len(x))[:, None] / 1e4 ** (np.arange(0, width, 2) / width)
        cos, sin = np.cos(np.tile(angle, 2)), np.sin(np.tile(angle, 2))
        q, k = (t * cos + np.roll(t, width // 2, -1) * self.sign(width) * sin for t in (q, k))
        group = c["num_attention_heads"] // c["num_key_value_heads"]
        k, v = k.repeat(group, 0), v.repeat(group, 0)
        weight = q @ k.swapaxes(1, 2) / width**0.5
        weight = np.where(np.tri(len(x), dtype=bool), weight, -np.inf)
        weight = np.exp(weight - weight.max(-1, keepdims=True))
        out = weight / weight.sum(-1, keepdims=True) @ v
        return out.swapaxes(0, 1).reshape(len(x), -1) @ own["self_attn.o_proj.weight"].T

    @staticmethod
    def sign(width: int) -> np.ndarray:
        return np.repeat([-1.0, 1.0], width // 2)
