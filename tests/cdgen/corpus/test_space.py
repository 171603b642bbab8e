"""A disk that is too small for the corpus is told before anything is generated."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_corpus import begin, make_rows

from cdgen.corpus.ranges import commit_range
from cdgen.corpus.space import corpus_bytes, require_plan_space, require_range_space
from cdgen.errors import StorageError


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let every disk have that many bytes free."""

    def set_free(count: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=count))

    return set_free


def test_the_next_range_needs_room(out: Path, free: Callable[[int], None]) -> None:
    folder = begin(out, max_new_tokens=1000)
    needed = corpus_bytes(8, 1002)  # a range of 8, two tokens of prompt
    free(needed)
    require_range_space(folder)
    free(needed - 1)
    with pytest.raises(StorageError, match=r"too small: about 0\.0 MB needed for the next range"):
        require_range_space(folder)


def test_a_new_corpus_needs_room_for_its_ranges_and_its_files(
    out: Path, free: Callable[[int], None]
) -> None:
    folder = begin(out)
    needed = 2 * corpus_bytes(40, 8)
    free(needed)
    require_plan_space(folder, folder.plan)
    free(needed - 1)
    with pytest.raises(StorageError, match=r"the 40 sequences that are left .* Make room, then"):
        require_plan_space(folder, folder.plan)


def test_committed_ranges_are_done_and_tell_the_size_of_the_others(
    out: Path, free: Callable[[int], None]
) -> None:
    folder = begin(out, max_new_tokens=10**9)
    free(10**6)
    with pytest.raises(StorageError, match="the 40 sequences"):
        require_plan_space(folder, folder.plan)
    short = begin(out.parent / "short", range_size=8)
    sizes = [commit_range(short, i, make_rows(short.plan, i)).bytes for i in (0, 3)]
    whole = 5 * (sum(sizes) // 2) * 5 // 4
    needed = whole + whole * 24 // 40
    free(needed)
    require_plan_space(short, short.plan)
    free(needed - 1)
    with pytest.raises(StorageError, match="the 24 sequences"):
        require_plan_space(short, short.plan)


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_the_estimate_is_above_the_size_and_not_absurd(out: Path, format: str) -> None:
    """Rows of 400 different tokens with their text, which is 4 characters each."""
    folder = begin(out, format=format, max_new_tokens=400, range_size=40)

    def row(plan: Any, i: int) -> Any:
        tokens = [1, 3, *((i * 7919 + j * j * 31) % 4096 for j in range(400))]
        first = make_rows(plan, 0)[i]
        text = "".join(f"{token:04}" for token in tokens[2:])
        changed = {"tokens": tokens, "new_tokens": 400, "text": text, "finish_reason": "length"}
        return first.__class__(**{n: getattr(first, n) for n in first.__annotations__} | changed)

    written = commit_range(folder, 0, [row(folder.plan, i) for i in range(40)]).bytes
    assert written < corpus_bytes(40, 402, folder.plan.format) < 4 * written


def test_generate_refuses_before_it_loads_a_model(
    generate_200: Callable[..., Any],
    tmp_path: Path,
    free: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cdgen.generation.build_engine.fitting_engine", None)
    free(1000)
    ended = generate_200(tmp_path / "out")
    assert ended.code == 5
    assert f"cdgen: the disk of {tmp_path / 'out'} is too small" in ended.err
    assert "MB needed for the 200 sequences" in ended.err and "0.0 MB free" in ended.err
    assert not (tmp_path / "out").exists()


def test_generate_refuses_to_resume_into_too_little(
    generate_200: Callable[..., Any], tmp_path: Path, free: Callable[[int], None]
) -> None:
    command = (tmp_path / "out", "--range-size", 64)
    assert generate_200(*command, "--shard", "0/2").code == 0
    free(1000)
    assert "the 72 sequences that are left" in generate_200(*command, "--shard", "1/2").err
