"""Files of rows: Parquet and JSON Lines hold the same rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpus import begin, fill, make_rows

from cdgen import packages
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
