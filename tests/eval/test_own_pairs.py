"""Minimal pairs of one's own: several languages, and folders of any name that --tasks declares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eval_files import Run, document, predictions

from cdgen.eval.report.compare import make_report
from cdgen.eval.report.methods import Method

pytestmark = pytest.mark.usefixtures("one_thread")

Write = Callable[[Path, list[dict[str, Any]]], None]


def pairs(count: int, **more: str) -> list[dict[str, Any]]:
    """Return pairs in which the shorter sentence, which a model finds likelier, is right."""
    return [
        {"sentence_good": f"No {i}.", "sentence_bad": f"Some of the {i} are no more.", **more}
        for i in range(count)
    ]


def swapped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**row, "sentence_good": row["sentence_bad"], "sentence_bad": row["sentence_good"]}
        for row in rows
    ]


def test_languages_weigh_alike_and_their_phenomena(
    run: Run, llama: Path, out: Path, small_data: Path, write_jsonl: Write
) -> None:
    """Language `one` has three phenomena, all right; `two` has a right one and a wrong one."""
    folder = small_data / "multiblimp"
    rows = [row for name in "abc" for row in pairs(4, phenomenon=name)]
    write_jsonl(folder / "one.jsonl", rows)
    rows = pairs(2, phenomenon="a") + swapped(pairs(6, phenomenon="b"))
    write_jsonl(folder / "two.jsonl", rows)
    ended = run(llama, tasks="multiblimp")
    assert ended.code == 0, ended.err
    found = document(out)
    assert found["results"]["multiblimp"]["acc,none"] == pytest.approx((1 + 0.5) / 2)
    parts = {
        name: found["results"][name]["acc,none"] for name in found["group_subtasks"]["multiblimp"]
    }
    assert parts == {
        "multiblimp_one/a": 1,
        "multiblimp_one/b": 1,
        "multiblimp_one/c": 1,
        "multiblimp_two/a": 1,
        "multiblimp_two/b": 0,
    }
    languages = found["configs"]["multiblimp"]["labels"]["language"]
    assert {name: of["value"] for name, of in languages.items()} == {"one": 1, "two": 0.25}
    shown = (out / "subtasks.md").read_text()
    assert "| multiblimp | two/b | 0.00 (" in shown
    assert "| multiblimp | language: two | 25.00 (" in shown
    assert not list((out / "babylm2025").rglob("*")), "the pipeline has no such task"


def test_a_folder_of_any_name_is_scored_as_declared(
    run: Run, llama: Path, out: Path, small_data: Path
) -> None:
    run(llama, tasks="blimp_fast")
    expected = [row["scores"] for row in predictions(out, "blimp_fast")]
    (small_data / "blimp_fast").rename(small_data / "my_pairs")
    ended = run(llama, tasks="my_pairs = blimp")
    assert ended.code == 0, ended.err
    assert [row["scores"] for row in predictions(out, "my_pairs")] == expected
    assert document(out)["configs"]["my_pairs"]["kind"] == "blimp"
    ended = run(llama, tasks="my_pairs")
    assert ended.code == 2 and "my_pairs=blimp" in ended.err


def test_a_declared_task_is_compared_as_what_it_is(
    run: Run, llama: Path, other: Path, tmp_path: Path, small_data: Path, write_jsonl: Write
) -> None:
    """By its name it would pass for words whose reading times are regressed."""
    write_jsonl(small_data / "reading/mine.jsonl", pairs(6))
    for name, model in (("base", llama), ("other", other)):
        assert run(model, tasks="reading=blimp", out=tmp_path / name).code == 0
    methods = [Method(name, [tmp_path / name]) for name in ("base", "other")]
    report = make_report(methods, None, None)
    assert report.comparison.scores["base"]["reading acc"].value == 1


def test_the_same_data_declared_otherwise_are_scored_again(
    run: Run, llama: Path, small_data: Path, scored: list[tuple[str, str]]
) -> None:
    (small_data / "blimp_fast").rename(small_data / "mine")
    for kind, times in (("blimp", 1), ("blimp", 1), ("multiblimp", 2)):
        assert run(llama, tasks=f"mine={kind}").code == 0
        assert len(scored) == times


@pytest.mark.parametrize(
    "tasks", ["mine=blmp", "=blimp", "mine=", "mine=glue", "mine=blimp,mine=ewok", "a/b=blimp"]
)
def test_declarations_that_make_no_sense(run: Run, llama: Path, out: Path, tasks: str) -> None:
    ended = run(llama, tasks=tasks)
    assert ended.code == 2 and f"--tasks {tasks.split(',')[-1]}: " in ended.err
    assert len(ended.err.splitlines()) == 1 and not out.exists()


def test_a_subtask_of_one_item_can_be_scored_but_not_compared(
    run: Run,
    llama: Path,
    other: Path,
    tmp_path: Path,
    small_data: Path,
    cdgen: Run,
    write_jsonl: Write,
) -> None:
    write_jsonl(small_data / "multiblimp/kat.jsonl", pairs(1))
    for name, model in (("base", llama), ("other", other)):
        assert run(model, tasks="multiblimp", out=tmp_path / name).code == 0
    ended = cdgen("compare", tmp_path / "base", tmp_path / "other")
    assert ended.code == 2 and "kat: a comparison needs two items or more" in ended.err
