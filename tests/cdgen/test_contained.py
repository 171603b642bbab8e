"""Nothing is written outside OUT: not through a link in it, not by a name in a file."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from small_corpus import begin, fill, make_rows

from cdgen.contained import is_inner_path, is_plain_name, links_below, require_contained
from cdgen.corpus.finalize import finalize
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.manifest import WrittenFile, read_manifest
from cdgen.corpus.ranges import commit_range, read_range
from cdgen.corpus.reader import corpus_rows
from cdgen.corpus.verify import verify
from cdgen.errors import ModelError, StorageError, UsageError
from cdgen.eval.report.results import make_room, read_results
from cdgen.eval.run import EvalConfig, evaluate
from cdgen.eval.tasks.task_list import parse_tasks
from cdgen.experiment.checks import require_no_way_out
from cdgen.experiment.layout import Layout
from cdgen.experiment.recipe import Evaluation
from cdgen.experiment.tasks import prepare_tasks
from cdgen.settings import validated
from cdgen.storage import lock, read_record, temporary_of, write_atomic, write_record
from cdgen.train.checkpoints import require_whole
from cdgen.train.record import hold_folder

LINK = "is a link out of"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Return a folder of the user's with a file, which must stay as it is."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "kept").write_text("kept")
    return folder


def untouched(folder: Path) -> bool:
    return [path.name for path in folder.iterdir()] == ["kept"] and (
        (folder / "kept").read_text() == "kept"
    )


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "../a", "a\0b", 7, None])
def test_what_is_no_name(name: object) -> None:
    assert not is_plain_name(name)


@pytest.mark.parametrize("path", ["", "/a", "a//b", "../a", "a/..", "a/./b", "a/../../b", None])
def test_what_is_no_inner_path(path: object) -> None:
    assert not is_inner_path(path)


def test_names_and_inner_paths() -> None:
    assert all(map(is_plain_name, ["a", "..a", ".a", "a b", "\u0915", "..."]))
    assert all(map(is_inner_path, ["a", "data/train-0.parquet", ".cdgen/ranges/r.json"]))


def test_links_are_judged_by_where_they_lead(tmp_path: Path, elsewhere: Path) -> None:
    """OUT itself may be a link, and so may something in it that leads to OUT again."""
    real = tmp_path / "real"
    (real / "below").mkdir(parents=True)
    out = tmp_path / "out"
    out.symlink_to(real)
    (out / "inner").symlink_to("below")
    (out / "below/back").symlink_to(real)
    require_contained(out, links_below(out))
    (out / "below/away").symlink_to(elsewhere)
    with pytest.raises(StorageError, match=LINK):
        require_contained(out, links_below(out))


def test_a_dangling_link_leads_out_as_well(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/later").symlink_to(tmp_path / "not there yet")
    with pytest.raises(StorageError, match=LINK):
        require_contained(tmp_path / "out", links_below(tmp_path / "out"))


# ---- corpora ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".cdgen", "data", "README.md", "manifest.json", "prompts.jsonl"])
def test_a_new_corpus_is_not_written_through_a_link(
    tmp_path: Path, elsewhere: Path, name: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(elsewhere / "kept" if "." in name[1:] else elsewhere)
    with pytest.raises(StorageError, match=LINK):
        begin(out)
    assert untouched(elsewhere)


@pytest.mark.parametrize("name", [".cdgen/ranges", ".cdgen/prompts", ".cdgen/locks", "data"])
def test_a_corpus_is_not_resumed_through_a_link(tmp_path: Path, elsewhere: Path, name: str) -> None:
    folder = begin(tmp_path / "out")
    place = folder.out / name
    if place.exists():
        place.rename(tmp_path / "moved")
    place.symlink_to(elsewhere)
    with pytest.raises(StorageError, match=LINK):
        begin(folder.out)
    assert untouched(elsewhere)


@pytest.mark.parametrize("name", ["data", "README.md"])
def test_finalize_writes_through_no_link(tmp_path: Path, elsewhere: Path, name: str) -> None:
    folder = begin(tmp_path / "out")
    fill(folder)
    (folder.out / name).symlink_to(elsewhere / "kept" if "." in name else elsewhere)
    with pytest.raises(StorageError, match=LINK):
        finalize(folder.out)
    assert untouched(elsewhere)


def test_a_corpus_of_links_can_be_read(tmp_path: Path) -> None:
    """The hub's cache keeps every file of a dataset as a link to a blob."""
    folder = begin(tmp_path / "out")
    fill(folder)
    finalize(folder.out)
    for number, path in enumerate([*folder.data.iterdir(), folder.card, folder.manifest_file]):
        blob = tmp_path / f"blob-{number}"
        path.rename(blob)
        path.symlink_to(blob)
    assert len([*corpus_rows(folder.out, ["text"])]) == 40
    assert verify(folder.out) == []


@pytest.mark.parametrize("path", ["../kept", "/etc/passwd", "data/../../kept"])
def test_a_manifest_names_files_of_its_corpus(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValidationError, match="expected a path within the corpus"):
        WrittenFile(path=path, bytes=1, sha256="0")
    folder = begin(tmp_path / "out")
    fill(folder)
    finalize(folder.out)
    record = read_record(folder.manifest_file)
    record["files"][0]["path"] = path
    write_record(folder.manifest_file, record)
    with pytest.raises(StorageError, match="is not a manifest of this cdgen"):
        read_manifest(folder)


def test_a_range_is_the_file_of_its_own_number(tmp_path: Path) -> None:
    folder = begin(tmp_path / "out")
    for index in (0, 1):
        commit_range(folder, index, make_rows(folder.plan, index))
    write_record(folder.range_entry_path(1), read_record(folder.range_entry_path(0)))
    folder.range_path(1).write_bytes(folder.range_path(0).read_bytes())
    assert read_range(folder, 0) is not None
    assert read_range(folder, 1) is None


# ---- single files -------------------------------------------------------------------------------


def test_a_file_replaces_a_link_and_leaves_what_it_led_to(elsewhere: Path) -> None:
    out = elsewhere.parent / "card"
    out.symlink_to(elsewhere / "kept")
    write_atomic(out, b"new")
    assert out.read_bytes() == b"new" and not out.is_symlink()
    assert untouched(elsewhere)


def test_a_temporary_file_is_no_link(tmp_path: Path, elsewhere: Path) -> None:
    temporary_of(tmp_path / "card").symlink_to(elsewhere / "kept")
    with pytest.raises(StorageError, match="cannot write"):
        write_atomic(tmp_path / "card", b"new")
    assert untouched(elsewhere)


def test_a_lock_is_no_link(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "a.lock").symlink_to(elsewhere / "new")
    with pytest.raises(StorageError, match="cannot create the lock"), lock(tmp_path / "a.lock"):
        pass
    assert untouched(elsewhere)


# ---- training, evaluation, experiments ----------------------------------------------------------


def test_a_run_is_not_trained_through_a_link(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "out/checkpoints").mkdir(parents=True)
    (tmp_path / "out/checkpoints/checkpoint-5").symlink_to(elsewhere)
    with pytest.raises(StorageError, match=LINK), hold_folder(tmp_path / "out"):
        pass
    assert untouched(elsewhere)


def test_a_checkpoints_marker_names_files_in_it(tmp_path: Path) -> None:
    (tmp_path / "complete.json").write_text(json.dumps({"bytes": {"../kept": 4}}))
    with pytest.raises(ModelError, match=r"complete\.json is damaged"):
        require_whole(tmp_path)


def test_scores_are_not_written_through_a_link(
    tmp_path: Path, elsewhere: Path, tiny_pair: Any
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predictions").symlink_to(elsewhere)
    data = tmp_path / "data/blimp_a"
    data.mkdir(parents=True)
    (data / "a.jsonl").write_text('{"sentence_good": "w3", "sentence_bad": "w4"}\n')
    fields = {"models": [tiny_pair.good], "data": data.parent, "out": tmp_path / "out"}
    with pytest.raises(StorageError, match=LINK):
        evaluate(validated(EvalConfig, fields))
    assert untouched(elsewhere)


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"model_sha256": "0", "model": "../elsewhere"}},
        {"configs": {"../../elsewhere/kept": {}}},
        {"collated": ["../../elsewhere"]},
        {"collated": [7]},
    ],
    ids=["model", "task", "place", "number"],
)
def test_names_in_results_move_and_delete_nothing_elsewhere(
    tmp_path: Path, elsewhere: Path, change: dict[str, Any]
) -> None:
    fields = {"config": {"model_sha256": "0", "model": "a"}, "configs": {}, "collated": []}
    (tmp_path / "out").mkdir()
    (tmp_path / "out/results.json").write_text(json.dumps(fields))
    assert read_results(tmp_path / "out") == fields
    (tmp_path / "out/results.json").write_text(json.dumps(fields | change))
    with pytest.raises(StorageError, match="is damaged or not from cdgen eval"):
        make_room(tmp_path / "out")
    assert untouched(elsewhere)


@pytest.mark.parametrize("task", ["..=blimp", ".=blimp", "a/b=blimp"])
def test_the_name_of_a_task_is_a_name(task: str) -> None:
    with pytest.raises(UsageError, match="expected the name of one folder"):
        parse_tasks([task])


def test_an_experiment_leads_out_to_its_data_alone(tmp_path: Path, elsewhere: Path) -> None:
    layout = Layout(tmp_path / "out")
    layout.tasks.mkdir(parents=True)
    (layout.tasks / "blimp_a").symlink_to(elsewhere)
    require_no_way_out(layout)
    for place in (layout.tasks / ".blimp_a.tmp", layout.out / "corpora", layout.base / "a"):
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(elsewhere)
        with pytest.raises(StorageError, match=LINK):
            require_no_way_out(layout)
        place.unlink()


@pytest.mark.parametrize("command", ["run", "report"])
def test_the_commands_of_an_experiment_refuse_a_way_out(
    cdgen: Callable[..., Any], tmp_path: Path, elsewhere: Path, command: str
) -> None:
    out = tmp_path / "out"
    (out / "logs").parent.mkdir()
    (out / "logs").symlink_to(elsewhere)
    (out / "recipe.json").touch()
    (tmp_path / "recipe.yaml").write_text("name: a\n")
    given = {
        "run": (tmp_path / "recipe.yaml", "--data", tmp_path, "--out", out),
        "report": (out,),
    }
    ended = cdgen(command, *given[command])
    assert ended.code == 5 and LINK in ended.err
    assert untouched(elsewhere)


def test_an_archive_moves_no_folder_of_the_user(tmp_path: Path, elsewhere: Path) -> None:
    """A member with an absolute name would make that very folder the one that was unpacked."""
    data = tmp_path / "data"
    data.mkdir()
    with tarfile.open(data / "tasks.tar", "w") as archive:
        member = archive.gettarinfo(elsewhere / "kept")
        member.name = f"{tmp_path}/blimp_a/kept"
        with (elsewhere / "kept").open("rb") as file:
            archive.addfile(member, file)
    os.rename(elsewhere, tmp_path / "blimp_a")
    evaluation = Evaluation(tasks=("blimp_a",), data=Path("tasks.tar"))
    with pytest.raises(UsageError, match="would lie outside"):
        prepare_tasks(evaluation, data, Layout(tmp_path / "out"))
    assert untouched(tmp_path / "blimp_a")


def test_the_folder_of_a_corpus_may_be_a_link(tmp_path: Path, elsewhere: Path) -> None:
    real = tmp_path / "another disk"
    real.mkdir()
    (tmp_path / "out").symlink_to(real)
    fill(begin(tmp_path / "out"))
    finalize(tmp_path / "out")
    assert CorpusFolder(real).is_finalized
