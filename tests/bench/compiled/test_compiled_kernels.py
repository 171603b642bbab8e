"""The machine code of every Triton kernel, compiled ahead of time for three GPU generations."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from cdgen.bench.compiled import compiled_kernels
from cdgen.bench.compiled.compiled_kernels import (
    CAPABILITIES,
    MOST_REGISTERS,
    NARROW,
    Variant,
)
from cdgen.bench.compiled.kernel_calls import OPS, Calls

# Each of the two fixtures compiles for a while, and other processes may hold the cores.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "kernels-compiled.md"


@triton.jit
def row_max(x, out, length, stride, BLOCK: tl.constexpr):
    row = x + tl.program_id(0).to(tl.int64) * length * stride
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, length, BLOCK):
        token = start + tl.arange(0, BLOCK)
        logits = tl.load(row + token * stride, mask=token < length, other=float("-inf"))
        top = tl.maximum(top, logits.to(tl.float32))
    tl.store(out + tl.program_id(0), tl.max(top, 0))


@triton.jit
def sort(x, out, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    tl.store(out + lane, tl.sort(tl.load(x + lane)))


def toys() -> Calls:
    x, out = torch.empty(4, 8192, dtype=torch.bfloat16), torch.empty(4, 8192)
    yield "every logit", lambda: row_max[(4,)](x, out, 4096, 1, BLOCK=2048)
    yield "every other logit", lambda: row_max[(4,)](x, out, 4096, 2, BLOCK=2048)
    yield "few numbers", lambda: sort[(1,)](out, out, BLOCK=512)
    # Each of 128 threads must hold 32 numbers and more in 24 registers.
    yield "many numbers", lambda: sort[(1,)](out, out, BLOCK=4096, maxnreg=24)


@pytest.fixture(scope="module")
def toy_codes(
    tmp_path_factory: pytest.TempPathFactory, capabilities: tuple[int, ...]
) -> dict[str, list[dict[str, Any]]]:  # by call, one per capability
    """Compile the toys in a process of their own: in this one Triton may interpret them."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    # Code in the user's cache may name the files of another checkout.
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    run = subprocess.run(
        [sys.executable, __file__, *map(str, capabilities)],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    codes = defaultdict(list)
    for variant in json.loads(run.stdout):
        codes[variant["call"]].append(variant["code"])
    return codes


@pytest.mark.thorough
@pytest.mark.parametrize("call, width", [("every logit", 16), ("every other logit", 2)])
def test_width_of_a_loops_loads(
    toy_codes: dict[str, list[dict[str, Any]]], call: str, width: int
) -> None:
    for code in toy_codes[call]:
        assert code["loops"]
        # A tile of 2048 bf16 logits over 128 threads: 32 bytes each.
        assert code["loads"] == [{"width": width, "source": "row_max.row"}] * (32 // width)


@pytest.mark.thorough
def test_spills_are_seen(toy_codes: dict[str, list[dict[str, Any]]]) -> None:
    assert all(code["spilled_bytes"] == 0 for code in toy_codes["few numbers"])
    for code in toy_codes["many numbers"]:
        assert code["registers"] <= 24
        # At least the numbers of one thread that its registers do not hold.
        assert code["spilled_bytes"] >= 4 * (4096 // 128 - 24)


@pytest.fixture(scope="module")
def capabilities(request: pytest.FixtureRequest) -> tuple[int, ...]:
    """9.0 alone by default; the thorough run compiles for every capability."""
    return CAPABILITIES if request.config.getoption("--thorough") else (90,)


@pytest.fixture(scope="module")
def variants() -> list[Variant]:
    """Compile every kernel as every call launches it: four minutes on two cores, so the tests that
    need it are thorough ones. `.ci/run` runs them."""
    return compiled_kernels.inspect_all(CAPABILITIES)


@pytest.mark.thorough
def test_nothing_spills(variants: list[Variant]) -> None:
    assert [v for v in variants if v.code.spilled_bytes] == []


@pytest.mark.thorough
def test_registers_within_their_bound(variants: list[Variant]) -> None:
    assert [v for v in variants if v.code.registers > MOST_REGISTERS[v.kernel]] == []


@pytest.mark.thorough
def test_loops_load_16_bytes(variants: list[Variant]) -> None:
    narrow = {load.source for v in variants for load in v.code.loads if load.width < 16}
    assert narrow == set(NARROW)


@pytest.mark.thorough
def test_every_kernel_for_every_capability(variants: list[Variant]) -> None:
    for capability in CAPABILITIES:
        assert {v.kernel for v in variants if v.capability == capability} == kernels_in_source()


def test_every_kernel_has_a_bound_of_registers() -> None:
    assert set(MOST_REGISTERS) == kernels_in_source()


def kernels_in_source() -> set[str]:
    """Return the `triton.jit` functions that no other one calls."""
    jitted = [
        node
        for path in (ROOT / "kernels" / "gpu").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list)
    ]
    called = {
        node.func.id
        for function in jitted
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return {function.name for function in jitted} - called


@pytest.mark.thorough
def test_page_shows_this_table(variants: list[Variant]) -> None:
    here = f"triton=={version('triton')}"
    if here not in (ROOT / "constraints.txt").read_text().splitlines():
        pytest.skip(f"the table is that of the Triton pinned in constraints.txt; here is {here}")
    assert PAGE.read_text() == compiled_kernels.page(variants)


if __name__ == "__main__":
    OPS["toys"] = toys
    found = [v for c in map(int, sys.argv[1:]) for v in compiled_kernels.inspect("toys", c)]
    print(json.dumps([asdict(v) for v in found]))
