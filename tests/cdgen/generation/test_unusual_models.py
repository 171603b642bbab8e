"""`cdgen generate` with checkpoints that it refuses, or takes with a word about them."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from checkpoint_folders import add_code, edit_config, edit_tensors
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    MambaConfig,
    OpenAIGPTConfig,
    PhiConfig,
    RwkvConfig,
)

pytestmark = pytest.mark.usefixtures("one_thread")

Command = Callable[..., Any]
VOCAB, NEW = 48, 10
_IDS = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1}
_SHAPE = {
    **_IDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
CONFIGS: dict[str, Any] = {
    "bert": BertConfig(**_SHAPE),
    "phi": PhiConfig(**_SHAPE),
    "mamba": MambaConfig(hidden_size=32, num_hidden_layers=2, **_IDS),
    "gpt-1": OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=4, n_positions=64, **_IDS),
    "rwkv": RwkvConfig(hidden_size=32, num_hidden_layers=2, context_length=64, **_IDS),
    # Scores that the lean decoder does not compute.
    "gpt2": GPT2Config(
        n_embd=32,
        n_layer=1,
        n_head=4,
        n_positions=64,
        scale_attn_by_inverse_layer_idx=True,
        **_IDS,
    ),
}


@pytest.fixture
def model(
    save_random: Callable[..., Path], tiny_pair: Any, tmp_path: Path
) -> Callable[[str], Path]:
    """Return a function that saves a random model with the tokenizer of `tiny_pair`."""

    def save(name: str) -> Path:
        folder = save_random(CONFIGS[name], tmp_path / name, head_scale=2.0)
        shutil.copy(tiny_pair.good / "tokenizer.json", folder)
        return folder

    return save


@pytest.fixture
def copy(tiny_pair: Any, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies the GOOD or the BAD of `tiny_pair`, to be changed."""

    def make(role: str = "good") -> Path:
        return Path(shutil.copytree(getattr(tiny_pair, role), tmp_path / f"copy-of-{role}"))

    return make


@pytest.fixture
def generate(cdgen: Command, prompts: Path, tmp_path: Path) -> Command:
    """Run `cdgen generate` for one greedy sequence per prompt, from GOOD alone unless told."""

    def run(good: Path, *more: object) -> Any:
        sizes = ("--prompt-tokens", 4, "--max-new-tokens", NEW, "--num-sequences", 1)
        how = ("--strategy", "vanilla", "--temperature", 0, "--on-eos", "continue")
        files = ("--good", good, "--prompts", prompts, "--out", tmp_path / "out")
        return cdgen("generate", *files, *sizes, *how, *more)

    return run


def refused(ended: Any, *says: str) -> None:
    assert ended.code == 4, ended
    (line,) = ended.err.splitlines()
    assert line.startswith("cdgen: ")
    for text in says:
        assert text in line, line


# ---- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["y\n" * 100, "", None], ids=["yes", "empty", "closed"])
def test_code_of_a_checkpoint_is_never_run(
    generate: Command,
    model: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
) -> None:
    monkeypatch.setattr(sys, "stdin", None if given is None else io.StringIO(given))
    folder = model("gpt2")
    ran = add_code(folder, model_type="their_own")
    ended = generate(folder)
    refused(ended, "model_type 'their_own' needs the code", "never run")
    assert ended.out == ""
    edit_config(folder, model_type="gpt2")
    assert generate(folder).code == 0
    assert not ran.exists()


def test_missing_weights_are_refused_with_nothing_left_behind(
    generate: Command, model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = model("phi")
    edit_tensors(folder, lambda t: {n: x for n, x in t.items() if not n.startswith("lm_head")})
    refused(generate(folder), "missing: lm_head.bias, lm_head.weight")
    assert not (tmp_path / "out").exists()


def test_after_a_refusal_another_good_may_use_the_folder(
    generate: Command, model: Callable[[str], Path], tiny_pair: Any, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    refused(generate(model("bert")), "bert is not causal here")
    assert list((tmp_path / "out").iterdir()) == []
    assert generate(tiny_pair.good).code == 0


def test_a_model_that_crashes_is_refused_before_there_is_a_plan(
    generate: Command,
    model: Callable[[str], Path],
    tiny_pair: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel

    def crash(*_: object, past_key_values: object = None, **more: object) -> None:
        raise AttributeError("'tuple' object has no attribute 'get_seq_length'")

    monkeypatch.setattr(GPT2LMHeadModel, "forward", crash)
    refused(generate(model("gpt2")), "AttributeError: 'tuple' object", "gpt2")
    assert generate(tiny_pair.good).code == 0


def test_quantized_weights(generate: Command, copy: Callable[..., Path]) -> None:
    folder = copy()
    edit_config(folder, quantization_config={"quant_method": "bitsandbytes"})
    refused(generate(folder), "quantization_config: bitsandbytes")


def test_one_checkpoint_is_no_pair(
    generate: Command, tiny_pair: Any, copy: Callable[..., Path]
) -> None:
    for bad in (tiny_pair.good, copy()):
        ended = generate(tiny_pair.good, "--bad", bad, "--strategy", "cd")
        refused(ended, "GOOD and BAD are one model", "dropout:0.5")


@pytest.mark.parametrize(
    ("kind", "embedding"),
    [("tiny_pair", "model.embed_tokens.weight"), ("gpt2", "transformer.wte.weight")],
)
def test_a_tied_head_of_other_values(
    generate: Command,
    copy: Callable[..., Path],
    model: Callable[[str], Path],
    kind: str,
    embedding: str,
) -> None:
    """Once in the lean decoder, once through transformers; the two would take different heads."""
    folder = copy() if kind == "tiny_pair" else model(kind)
    edit_config(folder, tie_word_embeddings=True)
    edit_tensors(folder, lambda tensors: tensors | {"lm_head.weight": tensors[embedding].flip(0)})
    refused(generate(folder), f"ties lm_head.weight to {embedding}", "different values")
    edit_tensors(folder, lambda tensors: tensors | {"lm_head.weight": tensors[embedding].clone()})
    assert generate(folder).code == 0


# ---- taken, with the tokens of transformers ----------------------------------------------------


@pytest.mark.parametrize("name", ["mamba", "gpt-1", "rwkv"])
def test_states_of_other_names(
    generate: Command, model: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = model(name)
    ended = generate(folder)
    assert ended.code == 0, ended
    assert ("has no exact state: each token costs its whole text" in ended.err) == (name != "mamba")
    oracle = AutoModelForCausalLM.from_pretrained(folder)
    rows = [
        row for path in (tmp_path / "out/data").iterdir() for row in pq.read_table(path).to_pylist()
    ]
    assert len(rows) == 5
    for row in rows:
        prompt = torch.tensor([row["tokens"][: row["prompt_tokens"]]])
        options = {"do_sample": False, "eos_token_id": None, "max_new_tokens": NEW}
        mask = torch.ones_like(prompt)
        expected = oracle.generate(prompt, attention_mask=mask, pad_token_id=0, **options)
        assert row["tokens"] == expected[0].tolist()


def test_a_tokenizer_with_ids_beyond_the_rows(
    generate: Command, copy: Callable[..., Path], prompts: Path, tmp_path: Path
) -> None:
    folder = copy()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["w99"])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert tokenizer.token_to_id("w99") == VOCAB
    assert generate(folder, "--temperature", 1).code == 0
    plan = json.loads((tmp_path / "out/manifest.json").read_bytes())["plan"]
    assert plan["vocab_size"] == VOCAB
    shutil.rmtree(tmp_path / "out")
    prompts.write_text("w3 w4\nw5 w99 w6\n")
    ended = generate(folder)
    assert ended.code == 2
    assert "prompt 1 holds token 48, 'w99', but GOOD has 48 tokens" in ended.err


def test_other_ends_of_text_and_an_adapter_are_said(
    generate: Command, copy: Callable[..., Path], tiny_pair: Any, tmp_path: Path
) -> None:
    good = copy()
    (good / "generation_config.json").write_text('{"eos_token_id": [1, 7]}')
    (good / "adapter_config.json").write_text("{}")
    ended = generate(good, "--bad", tiny_pair.bad, "--strategy", "cd")
    assert ended.code == 0
    said = ended.err.splitlines()
    assert f"{good}: the adapter beside the weights (adapter_config.json) is not used" in said[0]
    assert said[1] == "GOOD's end-of-text ids [1, 7] count; BAD's, [1], are not used"
    assert json.loads((tmp_path / "out/manifest.json").read_bytes())["plan"]["eos_token_ids"] == [
        1,
        7,
    ]
