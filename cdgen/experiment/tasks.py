"""OUT/tasks: the folders of evaluation data that the recipe names, in one place for `cdgen eval`.

A folder of DATA is linked; one in an archive is unpacked; `perplexity` is the text that the base
run holds out, unless the data have a folder of that name.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from cdgen.contained import is_inner_path
from cdgen.errors import UsageError, one_line
from cdgen.experiment.layout import Layout
from cdgen.experiment.recipe import Evaluation
from cdgen.storage import make_folder, sync_files, sync_folder

PERPLEXITY = "perplexity"


def folder_of_task(task: str) -> str:
    """Return the folder of a task as --tasks names it: NAME, or NAME=KIND."""
    return task.partition("=")[0]


def tasks_are_there(evaluation: Evaluation, layout: Layout) -> bool:
    return all((layout.tasks / folder_of_task(task)).is_dir() for task in evaluation.tasks)


def prepare_tasks(evaluation: Evaluation, data: Path, layout: Layout) -> None:
    """Make every folder of OUT/tasks that is not there yet. Raises UsageError if a task has no
    data."""
    if problems := task_problems(evaluation, data):
        raise UsageError("; ".join(problems))
    make_folder(layout.tasks)
    for task in evaluation.tasks:
        name = folder_of_task(task)
        target, place = layout.tasks / name, data / evaluation.data
        if target.is_dir():
            continue
        if place.is_dir() and (place / name).is_dir():
            os.symlink((place / name).absolute(), target)
        elif place.is_file() and name in _folders_in(place):
            _unpack(place, name, target)
        else:
            _link_held_out_text(layout, target)


def task_problems(evaluation: Evaluation, data: Path) -> list[str]:
    """Return what is wrong with the tasks: unknown ones, and those that have no data."""
    from cdgen.eval.tasks.task_list import parse_tasks  # it imports torch

    place, problems = data / evaluation.data, []
    names = [folder_of_task(task) for task in evaluation.tasks]
    try:
        parse_tasks(evaluation.tasks)
    except UsageError as error:
        problems.append(f"evaluation.tasks: {error}")
    try:
        there = _folders_in(place)
    except UsageError as error:
        return [*problems, str(error)]
    if missing := [name for name in names if name not in there and name != PERPLEXITY]:
        problems.append(
            f"evaluation.tasks: {', '.join(missing)}: no such folder in {place}; take the task out"
            " of the recipe, or get its data"
        )
    return problems


def bytes_of_task(task: str, evaluation: Evaluation, data: Path, layout: Layout) -> int:
    """Return the size of a task's data, 0 for held-out text that the base run has not left yet."""
    name, place = folder_of_task(task), data / evaluation.data
    for folder in (layout.tasks / name, place / name):
        if folder.is_dir():
            return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if not place.is_file() or (within := _folders_in(place).get(name)) is None:
        return 0
    with _archive(place) as archive:
        return sum(member.size for member in _members(archive, within))


def _folders_in(place: Path) -> dict[str, PurePosixPath]:
    """Return the folders of a folder or an archive by name, with the way to them. Raises UsageError
    if it can be neither listed nor opened, or holds a file that would lie elsewhere."""
    if place.is_dir():
        return {p.name: PurePosixPath(p.name) for p in place.iterdir() if p.is_dir()}
    with _archive(place) as archive:
        names = [m.name.removeprefix("./") for m in archive.getmembers() if m.isfile()]
    if outside := [name for name in names if not is_inner_path(name)]:
        raise UsageError(
            f"evaluation.data: cannot read {place}: {outside[0]!r:.80} in it would lie outside the"
            " folder that it is unpacked to"
        )
    files = [PurePosixPath(name) for name in names]
    return {folder.name: folder for file in files for folder in file.parents if folder.name}


@contextmanager
def _archive(place: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(place) as archive:
            yield archive
    except (OSError, EOFError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UsageError(
            f"evaluation.data: cannot read {place}: {reason}; name a folder or a .tar archive below"
            " --data"
        ) from error


def _members(archive: tarfile.TarFile, within: PurePosixPath) -> list[tarfile.TarInfo]:
    return [m for m in archive.getmembers() if within in PurePosixPath(m.name).parents]


def _unpack(place: Path, name: str, target: Path) -> None:
    """Unpack one folder of an archive; `target` appears when it is complete, and durable."""
    within, passing = _folders_in(place)[name], target.with_name(f".{name}.tmp")
    shutil.rmtree(passing, ignore_errors=True)
    with _archive(place) as archive:
        archive.extractall(passing, _members(archive, within), filter="data")
    for folder in {path.parent for path in passing.rglob("*")}:
        sync_files(folder)
    (passing / within).rename(target)
    sync_folder(target.parent)
    shutil.rmtree(passing)


def _link_held_out_text(layout: Layout, target: Path) -> None:
    text = layout.base / "validation.jsonl"
    passing = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(passing, ignore_errors=True)
    passing.mkdir()
    os.symlink(Path(os.path.relpath(text, target)), passing / text.name)
    sync_folder(passing)
    passing.rename(target)
    sync_folder(target.parent)
