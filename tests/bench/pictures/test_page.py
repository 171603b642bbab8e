"""docs/benchmarks.md and its pictures show what is in bench/results, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from made_up_gpu_results import write_all

from cdgen.bench.pictures.bars import Bar, draw_bars, shortened
from cdgen.bench.pictures.page import NOT_MEASURED, write
from cdgen.bench.pictures.pictures import PICTURES
from cdgen.bench.pictures.result_files import read_folder

ROOT = Path(__file__).resolve().parents[3]
DOCS, RESULTS = ROOT / "docs", ROOT / "bench/results"


def texts_of(folder: Path) -> dict[str, list[str]]:
    """Return the labels and numbers in each picture. Other bytes, such as the last digit of a
    coordinate, may depend on the processor."""
    drawn = {picture.name: folder / f"{picture.name}.svg" for picture in PICTURES}
    return {
        name: re.findall(r">([^<>]+)</text>", path.read_text())
        for name, path in drawn.items()
        if path.exists()
    }


def test_the_page_is_that_of_the_files(tmp_path: Path) -> None:
    write(read_folder(RESULTS), tmp_path)
    stale = "make bench-pictures writes the page again"
    assert (tmp_path / "benchmarks.md").read_text() == (DOCS / "benchmarks.md").read_text(), stale
    made = texts_of(tmp_path / "pictures")
    assert "508" in made["sampler-speed-up"]
    assert made == texts_of(DOCS / "pictures"), stale


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    write_all(tmp_path)
    write(read_folder(tmp_path), tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    assert "![On a GPU](pictures/gpu-speed-up.svg)" in page
    assert f"## One draw on a CPU\n{NOT_MEASURED}" in page
    names = {path.stem for path in (tmp_path / "pictures").iterdir()}
    assert names == {"gpu-speed-up", "roofline-gpu"}


def test_a_picture_of_lost_files_is_deleted(tmp_path: Path) -> None:
    write(read_folder(RESULTS), tmp_path)
    rows = [row for row in read_folder(RESULTS) if row.file != "cpu-engines.json"]
    write(rows, tmp_path)
    assert not (tmp_path / "pictures/engines.svg").exists()


@pytest.mark.parametrize("logarithmic", [False, True])
def test_the_same_numbers_give_the_same_bytes(logarithmic: bool) -> None:
    bars = [Bar("a <b>", "x", 2.0, 1.5, 2.5), Bar("c", "y", 0.5, 0.4, 0.6)]
    once, twice = (draw_bars(bars, "times", logarithmic=logarithmic, line=1) for _ in range(2))
    assert once == twice
    assert b"a &lt;b&gt;" in once and b"<dc:date>" not in once


def test_numbers_are_short() -> None:
    assert [shortened(x) for x in (0.00658, 1.0234, 64.0, 4044.4)] == [
        "0.00658",
        "1.02",
        "64",
        "4,044",
    ]
