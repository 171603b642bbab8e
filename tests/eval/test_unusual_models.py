"""`cdgen eval` and `cdgen measure` with checkpoints that cannot be scored, beside one that can."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import add_code, edit_config, edit_tensors
from eval_files import TASKS, Run, document
from tokenizers import Tokenizer
from transformers import BertConfig

pytestmark = pytest.mark.usefixtures("one_thread")


def no_head(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}


def _break(folder: Path, how: str) -> None:
    if how == "quantized":
        edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    elif how == "code":
        add_code(folder, model_type="their_own")
    elif how == "incomplete":
        edit_tensors(folder, no_head)
    elif how == "tied":
        edit_config(folder, tie_word_embeddings=True)
    else:
        edit_config(folder, is_encoder_decoder=True)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("quantized", "quantization_config: gptq"),
        ("code", "model_type 'their_own' needs the code that its auto_map names"),
        ("incomplete", "missing: lm_head.weight"),
        ("tied", "ties lm_head.weight to model.embed_tokens.weight"),
        ("encoder-decoder", "llama is an encoder-decoder"),
    ],
)
def test_the_other_checkpoints_are_scored(
    run: Run,
    llama: Path,
    copy_of: Callable[..., Path],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    says: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    folder = copy_of(llama, "unusable")
    _break(folder, how)
    ended = run(folder, llama)
    assert ended.code == 4, ended
    (line,) = [line for line in ended.err.splitlines() if line.startswith("cdgen: ")]
    assert "unusable" in line and says in line
    assert set(document(out / "llama")["configs"]) == set(TASKS.split(","))
    assert not (folder.parent / "unusable ran its code").exists()


def test_an_encoder_is_not_scored_with_the_future_in_sight(
    run: Run, llama: Path, save_random: Callable[..., Path], tmp_path: Path, out: Path
) -> None:
    config = BertConfig(
        vocab_size=4096,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    folder = save_random(config, tmp_path / "bert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(llama / name, folder)
    ended = run(folder, llama)
    assert ended.code == 4 and "bert is not causal here" in ended.err
    assert "configs" not in document(out / "bert") or not document(out / "bert")["configs"]
    assert set(document(out / "llama")["configs"]) == set(TASKS.split(","))


@pytest.mark.parametrize("task", ["blimp_fast", "glue"])
def test_a_token_that_the_model_has_no_row_for_stops_its_task(
    run: Run,
    llama: Path,
    copy_of: Callable[..., Path],
    small_data: Path,
    out: Path,
    write_jsonl: Callable[..., None],
    task: str,
) -> None:
    folder = copy_of(llama)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["w99"])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert run(folder).code == 0
    if task == "glue":
        rows = [{"question": "a", "passage": "w99 b", "label": label} for label in (0, 1)]
        for part in ("train", "valid"):
            write_jsonl(small_data / f"glue/boolq.{part}.jsonl", rows)
    else:
        pair = {"sentence_good": "A w99 cat.", "sentence_bad": "A cat."}
        write_jsonl(small_data / "blimp_fast/padded.jsonl", [pair])
    ended = run(folder, tasks=f"{task},ewok_fast")
    assert ended.code == 2, ended
    assert f"a text holds token 4096, but {folder} has 4096 rows" in ended.err
    assert task not in document(out)["configs"] and "ewok_fast" in document(out)["configs"]


def test_an_adapter_beside_the_weights_is_said(
    run: Run, llama: Path, copy_of: Callable[..., Path]
) -> None:
    folder = copy_of(llama)
    (folder / "adapter_config.json").write_text("{}")
    ended = run(folder)
    assert ended.code == 0
    assert (
        f"{folder}: the adapter beside the weights (adapter_config.json) is not used" in ended.err
    )


def test_a_folder_that_is_no_checkpoint_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora/adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    ended = run(tmp_path / "lora")
    assert ended.code == 4 and "lora is a PEFT adapter of 'org/base'" in ended.err


def test_a_judge_whose_code_would_have_to_run(
    cdgen: Callable[..., Any], llama: Path, copy_of: Callable[..., Path], tmp_path: Path
) -> None:
    folder = copy_of(llama, "judge")
    ran = add_code(folder, model_type="their_own")
    (tmp_path / "text.txt").write_text("One cat.\nTwo dogs.\n")
    ended = cdgen("measure", tmp_path / "text.txt", "--judge", folder)
    assert ended.code == 4 and "needs the code that its auto_map names" in ended.err
    edit_config(folder, model_type="llama")
    ended = cdgen("measure", tmp_path / "text.txt", "--judge", folder)
    assert ended.code == 0, "transformers has the model and the tokenizer"
    assert not ran.exists()
