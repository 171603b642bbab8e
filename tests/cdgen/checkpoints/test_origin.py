"""The name and the revision of a checkpoint, as its folder tells them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoint_folders import write_model

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.origin import Origin, origin_of


def origin(folder: Path) -> Origin:
    return origin_of(open_checkpoint(folder))


def test_a_folder_gives_its_name(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "step-2500")
    assert origin(folder) == Origin("step-2500", None, None)
    (tmp_path / "link").symlink_to(folder)
    assert origin(tmp_path / "link") == origin(folder)


def test_a_snapshot_of_the_hubs_cache_gives_repository_and_revision(tmp_path: Path) -> None:
    snapshots = tmp_path / "models--org--a--model/snapshots"
    snapshots.mkdir(parents=True)
    folder = write_model(snapshots / "0a1b2c")
    assert origin(folder) == Origin("org/a--model", "0a1b2c", None)
    assert origin(snapshots.parent / "snapshots/0a1b2c/../0a1b2c") == origin(folder)


def test_a_download_into_a_folder_gives_the_revision(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "downloaded")
    metadata = folder / ".cache/huggingface/download/config.json.metadata"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("0a1b2c\n607a30d783dfa663caf39e06633721c8d4cfcd7e\n1732000000.0\n")
    assert origin(folder) == Origin("downloaded", "0a1b2c", None)
    for nothing in ("", "<b> \x1b[31m\n", f"{'x' * 101}\n"):
        metadata.write_text(nothing)
        assert origin(folder) == Origin("downloaded", None, None)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("org/base-1.5B", "org/base-1.5B"),
        ("gpt2", None),
        ("/home/someone/secret/model", None),
        ("./out/model", None),
        ("../model", None),
        ("", None),
        (None, None),
        (7, None),
    ],
)
def test_a_config_may_name_a_repository_but_no_path(
    tmp_path: Path, written: Any, shown: str | None
) -> None:
    folder = write_model(tmp_path / "good", _name_or_path=written)
    assert origin(folder) == Origin("good", None, shown)
