"""Folders that are no checkpoint: each is named, with the folder to give instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoint_folders import opened, refusal, write_model


def write_adapter(folder: Path, base: object = "org/base") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("base", "named"), [("org/base", "'org/base'"), (None, "an unnamed model")]
)
def test_an_adapter(tmp_path: Path, base: object, named: str) -> None:
    message = refusal(write_adapter(tmp_path / "lora", base))
    assert f"lora is a PEFT adapter of {named}, not a model" in message
    assert "merge_and_unload" in message


def test_an_adapter_whose_config_is_no_json(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "lora")
    (folder / "adapter_config.json").write_text("[")
    assert "is a PEFT adapter of an unnamed model" in refusal(folder)


def test_an_adapter_with_the_config_of_its_base(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "lora")
    (folder / "model.safetensors").unlink()
    write_adapter(folder)
    assert "is a PEFT adapter of 'org/base'" in refusal(folder)


def test_an_adapter_beside_the_weights_is_not_used_and_said(tmp_path: Path) -> None:
    plain = opened(write_model(tmp_path / "good"))
    pair = opened(write_adapter(tmp_path / "good"))
    assert pair.good.sha256 == plain.good.sha256
    (note,) = pair.notes
    assert "good: the adapter beside the weights (adapter_config.json) is not used" in note
    assert plain.notes == ()


@pytest.mark.parametrize("config", [False, True], ids=["alone", "with a config"])
def test_gguf_files(tmp_path: Path, config: bool) -> None:
    folder = write_model(tmp_path / "good")
    (folder / "model.safetensors").rename(folder / "m-Q4_K_M.gguf")
    if not config:
        (folder / "config.json").unlink()
    message = refusal(folder)
    assert "holds GGUF weights (m-Q4_K_M.gguf)" in message and "safetensors checkpoint" in message
    assert "holds GGUF weights" in refusal(folder / "m-Q4_K_M.gguf")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Write a hub cache of one model with two revisions; the branch main is at the first one."""
    repository = tmp_path / "home/hub/models--org--name"
    for revision in ("aaa", "bbb"):
        (repository / "snapshots").mkdir(parents=True, exist_ok=True)
        write_model(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("aaa\n")
    return tmp_path / "home"


@pytest.mark.parametrize("given", ["", "hub", "hub/models--org--name"])
def test_a_hub_cache_names_the_snapshot_of_main(cache: Path, given: str) -> None:
    snapshots = cache / "hub/models--org--name/snapshots"
    message = refusal(cache / given)
    assert "is the folder of a hub cache: give one of the 2 checkpoints in it" in message
    assert message.endswith(str(snapshots / "aaa"))
    assert opened(snapshots / "aaa").vocab_size == 6


def test_a_hub_cache_of_one_revision(cache: Path) -> None:
    repository = cache / "hub/models--org--name"
    (repository / "refs/main").unlink()
    (repository / "snapshots/bbb/config.json").unlink()
    message = refusal(repository)
    assert message.endswith(f"give the checkpoint in it, {repository / 'snapshots/aaa'}")
    assert "give the checkpoint in it" in refusal(repository / "snapshots")


@pytest.mark.parametrize("below", ["", "checkpoints"])
def test_a_training_run_names_its_last_checkpoint(tmp_path: Path, below: str) -> None:
    run = tmp_path / "run"
    (run / below).mkdir(parents=True)
    for step in (500, 1000, 90):
        write_model(run / below / f"checkpoint-{step}")
    (run / below / "checkpoint-2000").mkdir()  # being written
    message = refusal(run)
    assert "run is the folder of a training run: give one of the 3 checkpoints in it" in message
    assert message.endswith(str(run / below / "checkpoint-1000"))


def test_a_training_run_of_adapters(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    last = write_adapter(tmp_path / "run/checkpoint-20")
    assert refusal(tmp_path / "run").endswith(f"give the checkpoint in it, {last}")
    assert "is a PEFT adapter" in refusal(last)


def test_any_other_folder_of_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "pair").mkdir()
    for role in ("good", "bad"):
        write_model(tmp_path / "pair" / role)
    message = refusal(tmp_path / "pair")
    assert "pair is a folder of checkpoints: give one of the 2" in message
    assert message.endswith(str(tmp_path / "pair/bad"))


def test_an_empty_folder_still_lacks_its_config(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty has no config.json" in refusal(tmp_path / "empty")
