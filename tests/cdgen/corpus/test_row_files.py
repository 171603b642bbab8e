"""Files of rows: Parquet and JSON Lines hold the same rows."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
import small_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpus import begin, fill, make_rows

from cdgen import packages
from cdgen.corpus import row_files
from cdgen.corpus.finalize import finalize
from cdgen.corpus.ranges import commit_range
from cdgen.corpus.reader import corpus_rows, rows_so_far
from cdgen.corpus.row_files import read_rows, require_writer
from cdgen.corpus.rows import columns_of
from cdgen.corpus.verify import verify
from cdgen.errors import StorageError, UsageError

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(drawn=st.lists(st.tuples(TEXTS, NUMBERS, NUMBERS), min_size=8, max_size=8))
def test_both_formats_hold_the_same_rows(drawn: list[tuple[str, float, float]]) -> None:
    """The rows are equal to the bit of each float32, and so are the counts."""
    found = []
    for format in ("parquet", "jsonl"):
        with TemporaryDirectory() as temporary:
            out = Path(temporary) / "out"
            folder = begin(out, format=format, logprobs=True)
            fill(folder)
            changed = [
                replace(
                    row, text=text, mean_plausible=a, good_logprob=b if row.new_tokens else None
                )
                for row, (text, a, b) in zip(make_rows(folder.plan, 2), drawn, strict=True)
            ]
            commit_range(folder, 2, changed)
            rows = list(rows_so_far(out, list(columns_of(folder.plan))))
            totals = finalize(out).totals
            assert list(corpus_rows(out, list(columns_of(folder.plan)))) == rows
            assert verify(out) == []
            found.append((rows, totals))
    assert found[0] == found[1]
    stored = found[0][0][16:24]
    assert [(row["text"], row["mean_plausible"]) for row in stored] == [d[:2] for d in drawn]


_COUNTS = st.integers(-(2**31), 2**31 - 1)
_ROWS = st.fixed_dictionaries(
    {
        **dict.fromkeys(("sequence_id", "prompt_id"), st.integers(-(2**63), 2**63 - 1)),
        **dict.fromkeys(("text", "finish_reason"), TEXTS),
        "tokens": st.lists(_COUNTS, max_size=9),
        **dict.fromkeys(("prompt_tokens", "new_tokens"), _COUNTS),
        "mean_plausible": st.floats(width=32),
        "good_logprob": NUMBERS | st.none(),
    }
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(rows=st.lists(_ROWS, max_size=20))
def test_columns_are_those_that_pyarrow_makes(rows: list[dict[str, Any]]) -> None:
    with TemporaryDirectory() as temporary:
        plan = begin(Path(temporary) / "out", logprobs=True).plan
    table = row_files._table(plan, rows)
    table.validate(full=True)
    expected = pa.Table.from_pylist(rows, schema=table.schema)
    for name in table.column_names:
        assert repr(table[name].to_pylist()) == repr(expected[name].to_pylist())  # NaN too
        assert table[name].null_count == expected[name].null_count


def test_writing_rows_does_not_import_pandas(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from small_corpus import begin, make_rows
from cdgen.corpus.ranges import commit_range
folder = begin(Path(sys.argv[1]), format="parquet")
commit_range(folder, 0, make_rows(folder.plan, 0))
print("pandas" in sys.modules)
"""
    found = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "out"],
        cwd=Path(small_corpus.__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "False\n"


def test_a_json_line_holds_the_columns_in_order_and_short_numbers(out: Path) -> None:
    folder = begin(out, format="jsonl", logprobs=True)
    rows = make_rows(folder.plan, 0)
    rows[1] = replace(rows[1], text="\u00fc\n\u2028", mean_plausible=0.1, good_logprob=-1 / 3)
    commit_range(folder, 0, rows)
    lines = folder.range_path(0).read_bytes().split(b"\n")
    assert lines[1].decode() == (
        '{"sequence_id":1,"prompt_id":0,"text":"\u00fc\\n\u2028","tokens":[1,3,4,5,6,7,8],'
        '"prompt_tokens":2,"new_tokens":5,"finish_reason":"length","mean_plausible":0.1,'
        '"good_logprob":-0.33333334}'
    )
    assert (len(lines), lines[-1]) == (9, b"")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text":"a"}\n{"text"', "line 2"),
        (b'{"text":"a"}\n{"txt":"b"}\n', "line 2: no column 'text'"),
        (b'{"text":"a"}\n["b"]\n', "line 2"),
        (b'{"text":"a"}\n{"text":"\xff"}\n', "line 2"),
        (b'{"text":"a"}\n{"text":"b","mean_plausible":"x"}\n', "line 2"),
    ],
)
def test_json_lines_that_are_no_rows(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    rows = read_rows(path, ["text"])
    assert next(rows) == {"text": "a"}
    with pytest.raises(StorageError, match=said):
        next(rows)


def test_without_pyarrow_parquet_is_refused_by_name(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begin(out)
    commit_range(folder, 0, make_rows(folder.plan, 0))
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    require_writer("jsonl")
    with pytest.raises(UsageError, match=r"install pyarrow, or give --format jsonl$"):
        require_writer("parquet")
    with pytest.raises(UsageError, match=r"install pyarrow to read .*range-0000000\.parquet"):
        list(rows_so_far(out, ["text"]))
    with pytest.raises(UsageError, match=r"install pyarrow to finalize"):
        finalize(out)
