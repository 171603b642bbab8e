"""The folder of tasks: links, unpacked archives, and the text that the base run holds out."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from cdgen.errors import UsageError
from cdgen.experiment.layout import Layout
from cdgen.experiment.recipe import Evaluation
from cdgen.experiment.tasks import bytes_of_task, prepare_tasks, task_problems, tasks_are_there


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("blimp_a", "blimp_b"):
        folder = tmp_path / "data/tasks" / name
        folder.mkdir(parents=True)
        (folder / "order.jsonl").write_text(f"{name}\n")
    return tmp_path / "data"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "out")
    layout.base.mkdir(parents=True)
    (layout.base / "validation.jsonl").write_text('{"text": "held out"}\n')
    return layout


def evaluation(*tasks: str, data: str = "tasks") -> Evaluation:
    return Evaluation(tasks=tasks, data=Path(data))


def test_folders_are_linked_and_held_out_text_is_a_task(data: Path, layout: Layout) -> None:
    wanted = evaluation("blimp_a", "perplexity")
    prepare_tasks(wanted, data, layout)
    assert tasks_are_there(wanted, layout)
    assert (layout.tasks / "blimp_a/order.jsonl").read_text() == "blimp_a\n"
    assert (layout.tasks / "perplexity/validation.jsonl").read_text() == '{"text": "held out"}\n'
    assert sorted(path.name for path in layout.tasks.iterdir()) == ["blimp_a", "perplexity"]
    # A task may be added, and what is there stays.
    more = evaluation("blimp_a", "perplexity", "blimp_b=blimp")
    assert not tasks_are_there(more, layout)
    prepare_tasks(more, data, layout)
    assert tasks_are_there(more, layout)


@pytest.mark.parametrize("with_folders", [True, False])
def test_an_archive_is_unpacked_as_far_as_it_is_named(
    data: Path, layout: Layout, with_folders: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some archives list their folders, others only their files."""
    names = ["", *(f"{n}/order.jsonl" for n in ("blimp_a", "blimp_b"))][not with_folders :]
    with tarfile.open(data / "tasks.tar.xz", "w:xz") as archive:
        for name in names:
            archive.add(data / "tasks" / name, f"release/{name}", recursive=with_folders)
    wanted = evaluation("blimp_b", data="tasks.tar.xz")
    assert bytes_of_task("blimp_b", wanted, data, layout) >= len("blimp_b\n")
    synced = []

    def note(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    monkeypatch.setattr(os, "fsync", note)
    prepare_tasks(wanted, data, layout)
    # The stage counts as done once the folder is there: its files must outlive a power failure.
    assert {"order.jsonl", "blimp_b", "release"} <= {*synced[:-1]} and synced[-1] == "tasks"
    files = [str(path.relative_to(layout.tasks)) for path in layout.tasks.rglob("*")]
    assert sorted(files) == ["blimp_b", "blimp_b/order.jsonl"]
    assert (layout.tasks / "blimp_b/order.jsonl").read_text() == "blimp_b\n"


def test_what_an_interrupted_run_left_is_made_again(data: Path, layout: Layout) -> None:
    (layout.tasks / ".perplexity.tmp").mkdir(parents=True)
    (layout.tasks / ".perplexity.tmp/half").touch()
    prepare_tasks(evaluation("perplexity"), data, layout)
    files = [path.name for path in (layout.tasks / "perplexity").iterdir()]
    assert files == ["validation.jsonl"]


def test_an_archive_may_not_write_elsewhere(data: Path, layout: Layout) -> None:
    with tarfile.open(data / "bad.tar", "w") as archive:
        archive.add(data / "tasks/blimp_a/order.jsonl", "blimp_a/../../../escaped.jsonl")
    with pytest.raises(UsageError, match=r"cannot read .*bad\.tar"):
        prepare_tasks(evaluation("blimp_a", data="bad.tar"), data, layout)
    assert not list(data.parent.rglob("escaped.jsonl"))


def test_tasks_without_data_are_named_with_the_place(data: Path) -> None:
    (problem,) = task_problems(evaluation("blimp_a", "ewok_fast"), data)
    assert "ewok_fast: no such folder in" in problem and "blimp_a" not in problem
    (problem,) = task_problems(evaluation("blimp_a", data="gone"), data)
    assert "gone: No such file or directory" in problem
    (data / "broken.tar").write_bytes(b"no archive")
    (problem,) = task_problems(evaluation("blimp_a", data="broken.tar"), data)
    assert "broken.tar: " in problem and "name a folder or a .tar archive" in problem
