"""An index may list both of two tied tensors where the shards hold one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_folders import edit_config, edit_index
from transformers import AutoModelForCausalLM, LlamaConfig

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.loading import load_tensors
from cdgen.checkpoints.pretrained import load_causal_lm
from cdgen.errors import ModelError
from cdgen.models.decoder import Decoder
from cdgen.models.registry import lean_config


@pytest.fixture
def tied(save_random: Callable[..., Path], tmp_path: Path) -> Path:
    """Write a Llama that ties its head, in two shards; the index lists the head too."""
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    folder = save_random(config, tmp_path / "tied")
    (folder / "tokenizer.json").write_text("{}")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="3KB")
    (folder / "model.safetensors").unlink()
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(names.values())) > 1 and "lm_head.weight" not in names
    shard = names["model.embed_tokens.weight"]
    edit_index(folder, lambda index: index["weight_map"].update({"lm_head.weight": shard}))
    return folder


def test_an_index_may_list_a_tied_head_that_no_shard_holds(tied: Path) -> None:
    checkpoint = open_checkpoint(tied)
    assert "lm_head.weight" not in checkpoint.tensors
    shape = lean_config(checkpoint.config, 32)
    assert shape is not None
    decoder = Decoder(shape, [load_tensors(checkpoint, torch.float32)], 16, 32)
    oracle = AutoModelForCausalLM.from_pretrained(tied)
    assert torch.equal(decoder.embedding, oracle.lm_head.weight)
    assert torch.equal(load_causal_lm(tied, torch.float32).lm_head.weight, oracle.lm_head.weight)


def test_an_index_may_not_list_a_head_of_its_own(tied: Path) -> None:
    edit_config(tied, tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"lists 'lm_head\.weight' in"):
        open_checkpoint(tied)
