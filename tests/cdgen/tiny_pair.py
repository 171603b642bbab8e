"""GOOD and BAD as two tiny random Llamas that share a tokenizer of whole words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

WORDS = ["<s>", "</s>", *(f"w{number}" for number in range(2, 48))]


@dataclass(frozen=True)
class PairFolders:
    """GOOD and BAD as checkpoint folders that share a tokenizer."""

    good: Path
    bad: Path


def save_random(config: Any, folder: Path, seed: int = 0, head_scale: float = 1.0) -> Path:
    """Save a transformers model with every parameter drawn at random, biases and norms included.

    With their initial zeros and ones, a bias or a norm that is never applied would not show.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_(0.2 * noise + (0.0 if name.endswith("bias") else 1.0))
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
        model.get_output_embeddings().weight.mul_(head_scale)
    model.save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path, words: list[str]) -> None:
    """Save a tokenizer of whole words in `folder`: id n is the n-th of `words`. It puts BOS
    first."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", words.index("<s>"))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def save_tiny_pair(folder: Path) -> PairFolders:
    """Save two Llamas of 48 words and context 64.

    Their output heads are scaled so that about 8 tokens are plausible, as in trained models, and
    EOS is drawn now and then.
    """
    from transformers import LlamaConfig

    for name, layers in (("good", 2), ("bad", 1)):
        config = LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=0,
            eos_token_id=1,
        )
        save_random(config, folder / name, seed=layers, head_scale=2.0)
        save_tokenizer(folder / name, WORDS)
    return PairFolders(folder / "good", folder / "bad")
