"""`cdgen generate` with GOOD and BAD of different architectures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from cdgen.kernels import reference
from cdgen.kernels.sampling_params import SamplingParams

pytestmark = pytest.mark.usefixtures("one_thread")


@torch.inference_mode()
def drawn_by_transformers(
    models: list[Any], tokens: torch.Tensor, first: int, sequence_id: int
) -> list[int]:
    """Return the sampler's draw at each position from `first` on, after the tokens before it."""
    good, bad = (model(tokens[None]).logits[0, first - 1 : -1] for model in models)
    positions = torch.arange(first, len(tokens))
    ids = torch.full_like(positions, sequence_id)
    params = SamplingParams(alpha=0.1)
    return reference.sample_contrastive(good, bad, params, 3, ids, positions, 48).tokens.tolist()


@pytest.mark.parametrize(
    ("good", "bad"), [("llama", "gpt2"), ("gpt_neox", "gpt2"), ("gpt2", "llama")]
)
def test_rows_are_those_of_transformers(
    good: str,
    bad: str,
    cdgen: Callable[..., Any],
    tiny_pair: Any,
    tiny_others: dict[str, Path],
    prompts: Path,
    tmp_path: Path,
) -> None:
    folders = {"llama": tiny_pair.good, **tiny_others}
    ended = cdgen(
        "generate",
        "--good",
        folders[good],
        "--bad",
        folders[bad],
        "--prompts",
        prompts,
        "--prompt-tokens",
        4,
        "--max-new-tokens",
        12,
        "--num-sequences",
        3,
        "--seed",
        3,
        "--out",
        tmp_path / "out",
    )
    assert ended.code == 0, ended
    manifest = json.loads((tmp_path / "out/manifest.json").read_bytes())
    assert manifest["plan"]["decoder"] == "lean"
    models = [
        AutoModelForCausalLM.from_pretrained(folders[name], dtype=torch.float32).eval()
        for name in (good, bad)
    ]
    rows = [
        row
        for file in sorted((tmp_path / "out/data").iterdir())
        for row in pq.read_table(file).to_pylist()
    ]
    assert len(rows) == 15
    for row in rows:
        first = row["prompt_tokens"]
        expected = drawn_by_transformers(
            models, torch.tensor(row["tokens"]), first, row["sequence_id"]
        )
        assert row["tokens"][first:] == expected
