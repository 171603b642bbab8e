"""`cdgen generate --dtype` and `--kv-dtype` on a CPU: the same bytes whatever happens; refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from grids import thinned

from cdgen.device import choose_dtypes
from cdgen.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")

Command = Callable[..., Any]
Write = Callable[..., Any]


def formats() -> list[tuple[str, str]]:
    """Return those that this processor computes."""
    found = [("float32", "bfloat16"), ("float32", "int8")]
    try:
        choose_dtypes("bfloat16", "auto", "cpu", lean=True)
    except UsageError:
        return found
    return [*found, ("bfloat16", "auto"), ("bfloat16", "int8")]


each_format = pytest.mark.parametrize(("dtype", "kv_dtype"), formats())


@pytest.fixture
def write(cdgen: Command, stories260k: Any, prompts: Path) -> Write:
    """Run `cdgen generate` for 5 x 4 sequences, with flags as keywords."""

    def run(out: Path, **flags: object) -> Any:
        defaults = {
            "good": stories260k.good,
            "bad": stories260k.bad,
            "prompts": prompts,
            "prompt_tokens": 4,
            "max_new_tokens": 24,
            "num_sequences": 4,
            "range_size": 4,
        }
        named = {"out": out} | defaults | flags
        return cdgen(
            "generate",
            *(x for n, value in named.items() for x in (f"--{n.replace('_', '-')}", value)),
        )

    return run


def data_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "data").iterdir()}


def texts_of(out: Path) -> set[tuple[int, ...]]:
    tables = [pq.read_table(path) for path in (out / "data").iterdir()]
    return {tuple(row) for table in tables for row in table.column("tokens").to_pylist()}


@pytest.mark.parametrize(
    "bad, format_",
    thinned(
        ["folder", "layers:2", "dropout:0.5"], {"-".join(f): f for f in formats()}, keep_every=2
    ),
)
def test_shards_threads_and_lost_ranges_change_no_byte(
    bad: str,
    format_: tuple[str, str],  # of weights and caches
    write: Write,
    cdgen: Command,
    set_threads: Callable[[int], None],
    tmp_path: Path,
) -> None:
    dtype, kv_dtype = format_
    flags = {"dtype": dtype, "kv_dtype": kv_dtype} | ({} if bad == "folder" else {"bad": bad})
    assert write(tmp_path / "whole", **flags).code == 0
    plan = json.loads((tmp_path / "whole/manifest.json").read_bytes())["plan"]
    assert (plan["dtype"], plan["kv_dtype"]) == (dtype, kv_dtype.replace("auto", dtype))
    set_threads(2)
    for shard in ("1/2", "0/2"):
        assert write(tmp_path / "shards", shard=shard, **flags).code == 0
    (tmp_path / "shards/.cdgen/ranges/range-0000000.json").unlink()
    assert write(tmp_path / "shards", **flags).code == 0
    assert data_of(tmp_path / "shards") == data_of(tmp_path / "whole")
    assert cdgen("verify", tmp_path / "shards").code == 0


@each_format
def test_the_order_of_prompts_changes_no_greedy_text(
    dtype: str, kv_dtype: str, write: Write, prompts: Path, tmp_path: Path
) -> None:
    turned = tmp_path / "turned.txt"
    turned.write_text("\n".join(prompts.read_text().splitlines()[::-1]) + "\n")
    flags = {"dtype": dtype, "kv_dtype": kv_dtype, "temperature": 0}
    assert write(tmp_path / "out", **flags).code == 0
    assert write(tmp_path / "out-turned", prompts=turned, **flags).code == 0
    assert texts_of(tmp_path / "out") == texts_of(tmp_path / "out-turned")
    assert len(texts_of(tmp_path / "out")) > 1


def test_formats_write_different_corpora_and_are_not_mixed(write: Write, tmp_path: Path) -> None:
    for kv_dtype in ("float32", "int8"):
        assert write(tmp_path / kv_dtype, kv_dtype=kv_dtype, num_sequences=8).code == 0
    assert data_of(tmp_path / "float32") != data_of(tmp_path / "int8")
    ended = write(tmp_path / "int8", num_sequences=8)
    assert ended.code == 3
    assert "kv_dtype" in ended.err and "int8" in ended.err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"dtype": "float16"}, "--dtype float16: expected auto, float32 or bfloat16 on a CPU"),
        (
            {"kv_dtype": "fp8"},
            "--kv-dtype fp8: expected auto, float32, bfloat16, int8 on a CPU",
        ),
        ({"kv_dtype": "float16"}, "kv_dtype"),
    ],
)
def test_what_a_cpu_does_not_have_is_refused_in_one_line(
    flags: dict[str, str], says: str, write: Write, tmp_path: Path
) -> None:
    ended = write(tmp_path / "out", **flags)
    assert ended.code == 2
    assert says in ended.err.replace("--kv-dtype: ", "kv_dtype ") and ended.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
