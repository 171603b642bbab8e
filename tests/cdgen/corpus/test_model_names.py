"""The names of the models in manifest, card and status, and out of the plan."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_corpus import begin, fill

from cdgen.corpus.finalize import finalize
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.manifest import read_manifest
from cdgen.corpus.model_names import ModelName, ModelNames
from cdgen.corpus.status import status
from cdgen.errors import StorageError

GOOD = ModelName(name="org/good", revision="0a1b2c")
BAD = ModelName(name="bad", config_name="org/base")
NAMES = ModelNames(good=GOOD, bad=BAD)


def test_names_are_shown_with_what_is_known_of_them() -> None:
    assert str(GOOD) == "org/good, revision 0a1b2c"
    assert str(BAD) == "bad (config.json: org/base)"
    assert str(ModelName(name="org/good", config_name="org/good")) == "org/good"


@pytest.mark.parametrize("bad", ["dropout:0.5", "d" * 64])
def test_names_go_from_the_folder_into_manifest_card_and_status(out: Path, bad: str) -> None:
    names = ModelNames(good=GOOD, bad=BAD if len(bad) == 64 else None)
    folder = begin(out, names, bad=bad)
    assert status(out).models == names
    fill(folder)
    finalize(out)
    assert read_manifest(folder).models == names == status(out).models
    card = (out / "README.md").read_text()
    assert f"| GOOD | `org/good, revision 0a1b2c`, sha256 `{'c' * 64}` |" in card
    named = f"`bad (config.json: org/base)`, sha256 `{bad}`"
    assert f"| BAD | {named if names.bad else '`dropout:0.5`'} |" in card


def test_names_are_those_of_the_first_call_and_no_part_of_the_plan(out: Path) -> None:
    before = begin(out, NAMES).plan
    folder = begin(out, ModelNames(good=ModelName(name="moved")))
    assert folder.model_names == NAMES
    assert folder.plan.sha256 == before.sha256
    assert "org/good" not in json.dumps(folder.plan.fields)


def test_names_change_no_byte_of_the_rows(out: Path, tmp_path: Path) -> None:
    files = []
    for number, names in enumerate((None, NAMES)):
        folder = begin(tmp_path / f"corpus-{number}", names)
        fill(folder)
        files.append([(file.path, file.sha256) for file in finalize(folder.out).files])
    assert files[0] == files[1]


def test_a_corpus_of_an_earlier_version_has_none(out: Path) -> None:
    folder = begin(out)
    fill(folder)
    finalize(out)
    path = folder.manifest_file
    record = json.loads(path.read_bytes())
    assert record["models"] is None and status(out).models is None
    assert f"| GOOD | sha256 `{'c' * 64}` |" in (out / "README.md").read_text()


def test_names_that_would_break_the_table(out: Path) -> None:
    folder = begin(out, ModelNames(good=ModelName(name="a|b`c\nd")))
    fill(folder)
    finalize(out)
    assert "| GOOD | `a/b'c d`, sha256 " in (out / "README.md").read_text()


def test_damaged_names_are_reported(out: Path) -> None:
    folder = begin(out, NAMES)
    folder.names_file.write_text("{}")
    with pytest.raises(StorageError, match=r"models\.json is damaged"):
        CorpusFolder(out).model_names  # noqa: B018


def test_a_model_may_move_between_two_calls(
    generate_200: Callable[..., Any], tiny_pair: Any, tmp_path: Path
) -> None:
    good = Path(shutil.copytree(tiny_pair.good, tmp_path / "before"))
    assert generate_200(tmp_path / "out", "--good", good, "--shard", "0/2").code == 0
    moved = good.rename(tmp_path / "after")
    assert generate_200(tmp_path / "out", "--good", moved).code == 0
    assert generate_200(tmp_path / "whole", "--good", moved).code == 0
    manifests = [read_manifest(CorpusFolder(tmp_path / name)) for name in ("out", "whole")]
    assert [m.models and m.models.good.name for m in manifests] == ["before", "after"]
    assert manifests[0].files == manifests[1].files
    assert manifests[0].plan_sha256 == manifests[1].plan_sha256


def test_the_commands_name_the_models(
    generate_200: Callable[..., Any], cdgen: Callable[..., Any], tmp_path: Path
) -> None:
    assert generate_200(tmp_path / "out", "--shard", "0/2").code == 0
    assert cdgen("status", tmp_path / "out").out.startswith("GOOD good  BAD bad\nranges ")
