"""Every Triton kernel compiled for compute capability 8.0, 9.0 and 10.0, without a GPU, and the
facts of its machine code: registers, spills, shared memory, instructions, widths of loads.

    python -m cdgen.bench.compiled.compiled_kernels               prints the page
    python -m cdgen.bench.compiled.compiled_kernels --write PAGE  writes it to that file
    python -m cdgen.bench.compiled.compiled_kernels --check PAGE  exits 1 if the file is stale

The ops are called on CPU tensors, with a driver that stands in for a GPU and launches nothing. So
the inspected code is what a GPU would run, down to the specialisation of its arguments.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cdgen.bench.compiled.kernel_calls import LEAST_CAPABILITY, OPS
from cdgen.bench.compiled.machine_code import MachineCode, read_machine_code

CAPABILITIES = (80, 90, 100)

# Registers per thread that a kernel may use. A multiprocessor has 65536: room for 32 warps with 64
# each, 25 with 80, 21 with 96, 12 with 160, 8 with 232. Kernels that only wait for memory get the
# fewest.
MOST_REGISTERS = {
    "part_kernel": 64,
    "sample_kernel": 80,  # 64 without truncation and BAD's head
    "finish_kernel": 128,  # to sort a list; 96 without truncation
    "head_kernel": 160,  # the sums of a matrix product
    "_attend_single": 80,
    "_attend_grouped": 232,  # one warp per program, and shared memory holds no more than 8 at 8.0
    "_rms_norm": 64,
    "_rotary_to_cache": 64,
    "_swiglu": 64,
    "_layer_norm": 64,
    "_gelu": 64,
    "_advance_slots": 64,
}

# Loads of fewer than 16 bytes that a loop, or a kernel without one, may make, and why.
NARROW = {
    "collect_row.groups": "the list of plausible lanes: one entry per thread",
    "collect_row.good": "logits of plausible lanes, four in a row",
    "collect_parts.part_max": "one number per part",
    "collect_parts.good": "only in parts with a plausible token, starting at any token",
    "draw_from_list.lists.tokens": "the list of plausible tokens: one entry per thread",
    "draw_from_list.good": "logits of plausible tokens, anywhere in the row",
    "bad_logits.at": "as above",
    "_entries.tokens": "the list, one entry per thread",
    "_entries.scores": "as above",
    "load_tile.row.good": "rows of odd length are off the 16-byte grid; tallies take small tiles,"
    " because they keep 16 sums for each logit",
    "load_tile.row.bad": "as above",
    "dot_products.bad.bias": "one number per plausible token",
    "_any_has.status": "one byte per row",
    "head_kernel.status": "as above",
    "head_kernel.bad.bias": "one number per token and tile",
    "_attend_grouped.values": "fp8, laid out in shared memory for a product of 16-bit numbers, in"
    " runs of eight",
    "_rotary_to_cache.positions": "one number per program",
    "_advance_slots.stops": "one number per end-of-text token, in turn",
}


@dataclass(frozen=True)
class Variant:
    """One kernel as one call compiles it for one capability."""

    op: str
    call: str
    kernel: str
    capability: int
    warps: int
    shared_bytes: int  # per program
    code: MachineCode


class _NoGpu:
    """The parts of a Triton driver that compilation needs."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # Triton caches compiled kernels per device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiling_for(capability: int) -> Iterator[list[Any]]:
    """Let launches compile kernels and append them to the list, without running anything.

    Raises RuntimeError under Triton's interpreter, which does not compile.
    """
    import triton
    from triton.runtime.jit import JITFunction

    if triton.knobs.runtime.interpret:
        raise RuntimeError(
            "TRITON_INTERPRET is set: kernels are interpreted, not compiled; unset it"
        )
    launch, compiled = JITFunction.run, []

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        compiled.append(launch(self, *args, grid=grid, warmup=True, **kwargs))
        return compiled[-1]

    triton.runtime.driver.set_active(_NoGpu(capability))
    JITFunction.run = compile_only
    try:
        yield compiled
    finally:
        JITFunction.run = launch


def inspect(op: str, capability: int) -> list[Variant]:
    """Compile every kernel that the calls of `op` launch, once, under the first call that launches
    it."""
    variants, seen = [], set()
    for call, launch in OPS[op]():
        with compiling_for(capability) as compiled:
            launch()
        for kernel in compiled:
            if kernel.hash not in seen:
                seen.add(kernel.hash)
                m, code = kernel.metadata, read_machine_code(kernel.asm["cubin"])
                variants.append(
                    Variant(op, call, kernel.name, capability, m.num_warps, m.shared, code)
                )
    return variants


def _compile_afresh(cache: str) -> None:
    """Prepare a process that interprets nothing and ignores the cache of earlier runs."""
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ["TRITON_CACHE_DIR"] = cache


def inspect_all(capabilities: Sequence[int] = CAPABILITIES) -> list[Variant]:
    """Compile every variant of every op for these capabilities, with one process per core."""
    jobs = [(op, c) for op in OPS for c in capabilities if c >= LEAST_CAPABILITY.get(op, 0)]
    with (
        tempfile.TemporaryDirectory() as cache,
        ProcessPoolExecutor(
            max_workers=min(len(jobs), len(os.sched_getaffinity(0))),
            mp_context=multiprocessing.get_context("spawn"),  # this process may interpret kernels
            initializer=_compile_afresh,
            initargs=(cache,),
        ) as processes,
    ):
        return [v for found in processes.map(inspect, *zip(*jobs, strict=True)) for v in found]


HEADING = """# The compiled kernels

Written by `make kernels-table`; do not edit. The launchers are called on CPU tensors with a driver
that launches nothing, so their arguments are specialised as on a GPU. Registers are per thread,
shared bytes per program. Loads are those from global memory that a loop repeats, or all loads of a
kernel without such a loop.
"""


def page(variants: list[Variant]) -> str:
    """Return docs/kernels-compiled.md: one line per kernel and call, one figure per capability."""
    lines: dict[tuple[str, str, str], list[Variant]] = {}
    for v in variants:
        lines.setdefault((v.kernel, v.op, v.call), []).append(v)
    rows = [
        HEADING,
        f"Triton {version('triton')} and its own `ptxas`. Three figures are for compute capability"
        " 8.0 / 9.0 / 10.0, two for 9.0 / 10.0 alone (an fp8 cache), one for all.",
        "",
        "| kernel | call | warps | registers | bound | shared bytes | instructions | loads |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (kernel, _, call), of_capability in lines.items():
        cells = [
            f"`{kernel}`",
            call,
            _cell(v.warps for v in of_capability),
            _cell(v.code.registers for v in of_capability),
            str(MOST_REGISTERS.get(kernel, "none")),
            _cell(v.shared_bytes for v in of_capability),
            _cell(v.code.instructions for v in of_capability),
            _cell(_loads(v.code) for v in of_capability),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    rows += ["", "Narrower loads than 16 bytes, as `function.pointer`, and why:", ""]
    rows += [f"- `{source}`: {reason}" for source, reason in NARROW.items()]
    return "\n".join(rows) + "\n"


def _cell(values: Iterable[object]) -> str:
    figures = [str(value) for value in values]
    return figures[0] if len(set(figures)) == 1 else " / ".join(figures)


def _loads(code: MachineCode) -> str:
    widths = Counter(load.width for load in code.loads)
    return ", ".join(f"{widths[width]} x {width} B" for width in sorted(widths, reverse=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the page to this file")
    parser.add_argument("--check", type=Path, metavar="PAGE", help="fail if this file is stale")
    args = parser.parse_args()
    text = page(inspect_all())
    if args.write:
        args.write.write_text(text)
    elif args.check:
        if args.check.read_text() != text:
            print(f"{args.check}: stale; run make kernels-table", file=sys.stderr)
            return 1
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
