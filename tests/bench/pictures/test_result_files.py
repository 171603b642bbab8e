"""Every results file becomes rows that hold its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_up_gpu_results import write, write_all

from cdgen.bench.pictures.result_files import read_file, read_folder
from cdgen.bench.pictures.row import Row, rates, spread_of
from cdgen.errors import UsageError

RESULTS = Path(__file__).resolve().parents[3] / "bench/results"
FILES = sorted(RESULTS.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rows_of_a_committed_file(path: Path) -> None:
    rows = read_file(path)
    assert rows
    for row in rows:
        assert 0 <= row.p20 <= row.p50 <= row.p80, row
        assert row.hardware and row.versions and row.unit, row
        assert (row.ratio is not None) == bool(row.baseline), row


def numbers_in(document: Any) -> set[float]:
    if isinstance(document, dict):
        return {number for value in document.values() for number in numbers_in(value)}
    return {float(document)} if isinstance(document, int | float) else set()


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("cpu-sample-contrastive", ("result", "settings", "alpha 0.1", "us")),
        ("cpu-kv-dtype", ()),
        ("cpu-startup", ()),
    ],
)
def test_no_number_of_a_file_is_lost(name: str, where: tuple[str, ...]) -> None:
    path = RESULTS / f"{name}.json"
    document = json.loads(path.read_text())
    for key in where:
        document = document[key]
    if name == "cpu-startup":
        document = {key: document["result"][key] for key in ("help_s", "first_token_run_s")}
    elif name == "cpu-kv-dtype":
        keys = ("kl_mean", "kl_p99", "plausible_set_changed")
        formats = [each["formats"] for each in document["result"]["models"]]
        document = {
            f"{index} {name} {key}": found[key]
            for index, each in enumerate(formats)
            for name, found in each.items()
            for key in keys
        }
    rows = read_file(path)
    assert numbers_in(document) <= {n for row in rows for n in (row.p20, row.p50, row.p80)}


def row_of(rows: list[Row], **fields: str) -> Row:
    (found,) = [
        row for row in rows if all(getattr(row, name) == value for name, value in fields.items())
    ]
    return found


def test_ratios_are_those_that_the_file_states() -> None:
    rows = read_folder(RESULTS)
    draw = row_of(
        rows,
        file="cpu-sample-contrastive.json",
        provider="native",
        shape="64 x 16384, alpha 0.1, top-k 200, top-p 0.95",
    )
    assert draw.ratio == 508.37 and draw.baseline == "reference"
    assert row_of(rows, file="cpu-generate.json", provider="cdgen").ratio == 5.26


def test_rows_of_gpu_files(tmp_path: Path) -> None:
    write_all(tmp_path)
    rows = read_folder(tmp_path)
    times = [row for row in rows if row.provider == "triton" and row.unit == "us"]
    assert [(row.p50, row.baseline, row.ratio) for row in times] == [(10.0, "reference", 19.5)] * 3
    bandwidths = [row for row in rows if row.baseline == "copy"]
    assert [(row.p50, row.ratio) for row in bandwidths] == [(2.0, 0.5)] * 3
    assert {(row.provider, row.p50) for row in rows if row.op == "generate"} == {
        ("cdgen", 100),
        ("transformers", 5),
    }
    assert [row.p50 for row in rows if row.op == "eval"] == [60.0, 900]
    assert {row.hardware for row in rows} == {"some GPU, avx2"}


def test_a_file_without_a_reader_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "something", {})
    with pytest.raises(UsageError, match=r"something\.json: no reader"):
        read_folder(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected files of benchmarks"):
        read_folder(tmp_path)


def test_percentiles() -> None:
    few, many = spread_of([3.0, 1.0, 2.0]), spread_of([float(n) for n in range(1, 10)])
    assert (few.p20, few.p50, few.p80) == (1, 2, 3)
    assert (many.p20, many.p50, many.p80) == (2, 5, 8)
    assert rates(100, [2.0, 4.0]).p80 == 50
