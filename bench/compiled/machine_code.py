"""The machine code of a kernel: registers, spills, instructions, and the width of the loads that
its loops repeat. It is read with the `cuobjdump` and `nvdisasm` that Triton ships."""

from __future__ import annotations

import ast
import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Load:
    """An instruction that loads from global memory."""

    width: int  # bytes per thread
    source: str  # function and pointer, as in the kernel's source: attend.keys


@dataclass(frozen=True)
class MachineCode:
    registers: int  # per thread
    spilled_bytes: int  # per thread: stack and local memory
    instructions: int
    loops: bool  # False: no loop loads anything
    loads: tuple[Load, ...]  # that a loop repeats; of the whole kernel where no loop loads


@dataclass(frozen=True)
class _Instruction:
    name: str  # LDG
    suffixes: list[str]  # E, 128
    operands: str
    predicated: bool
    label: str | None  # that the operands name
    line: tuple[str, int]  # of the source

    @property
    def loads(self) -> bool:
        return self.name in ("LDG", "LDGSTS", "LD")


def read_machine_code(cubin: bytes) -> MachineCode:
    """Disassemble a cubin of one kernel with the tools that Triton ships."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (
            subprocess.run([*tool, file.name], capture_output=True, text=True, check=True).stdout
            for tool in (
                [knobs.nvidia.cuobjdump.path, "-res-usage"],
                [knobs.nvidia.nvdisasm.path, "-c", "-g"],
            )
        )
    ((registers, stack, local),) = re.findall(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", usage)
    instructions, labels = _parse(sass)
    repeated = _repeated_loads(instructions, labels)
    loads = repeated or [i for i in instructions if i.loads]
    return MachineCode(
        registers=int(registers),
        spilled_bytes=int(stack) + int(local),
        instructions=sum(i.name != "NOP" for i in instructions),
        loops=bool(repeated),
        loads=tuple(Load(_width(i.suffixes), _source(*i.line)) for i in loads),
    )


def _parse(sass: str) -> tuple[list[_Instruction], dict[str, int]]:
    """Return the instructions, and for each label the index of the instruction after it."""
    instructions: list[_Instruction] = []
    labels, line = {}, ("", 0)
    for text in sass.splitlines():
        if label := re.match(r"(\.L_x_\d+):", text):
            labels[label[1]] = len(instructions)
        elif place := re.match(r'\s+//## File "(.*)", line (\d+)', text):
            line = (place[1], int(place[2]))
        elif code := re.match(r"\s+/\*[0-9a-f]+\*/\s+(@\S+ +)?([A-Z]\w*)([.\w]*)(.*);", text):
            predicate, name, suffixes, operands = code.groups()
            named = re.search(r"`\((\.L_x_\d+)\)", operands)
            kinds, conditional = suffixes.split("."), bool(predicate)
            instructions.append(
                _Instruction(name, kinds, operands.strip(), conditional, named and named[1], line)
            )
    return instructions, labels


def _repeated_loads(instructions: list[_Instruction], labels: dict[str, int]) -> list[_Instruction]:
    """Return the loads from global memory that can be reached from themselves. Positions in the
    code do not tell, because rare branches are placed after the end and jump back."""
    after: list[list[int]] = []
    # BSSY names where the threads of a warp meet again; BSYNC goes there.
    joins: dict[str, int] = {}
    for index, i in enumerate(instructions):
        following = [index + 1] if index + 1 < len(instructions) else []
        target = labels[i.label] if i.label else None
        if i.name == "BSSY" and target is not None:
            joins[i.operands.split(",")[0]] = target
        if i.name == "BSYNC":
            following.append(joins[i.operands])
        if i.name == "BRA" and target is not None:
            conditional = i.predicated or not i.operands.startswith("`")
            following = [target, *following] if conditional else [target]
        if i.name in ("EXIT", "RET") and not i.predicated:
            following = []
        after.append(following)

    def repeats(index: int) -> bool:
        seen: set[int] = set()
        ahead = list(after[index])
        while ahead:
            if (here := ahead.pop()) not in seen:
                seen.add(here)
                ahead += after[here]
        return index in seen

    return [i for index, i in enumerate(instructions) if i.loads and repeats(index)]


def _width(suffixes: list[str]) -> int:
    """Return the bytes that a thread loads: LDG.E is 4, LDG.E.128 is 16, LDG.E.U16 is 2."""
    bits = [int(size[1]) for s in suffixes if (size := re.fullmatch(r"[US]?(8|16|64|128|256)", s))]
    return max(bits, default=32) // 8


@lru_cache
def _functions(path: str) -> list[ast.FunctionDef]:
    tree = ast.parse(Path(path).read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def _source(path: str, line: int) -> str:
    """Return `attend.keys` for a line of attend() with tl.load(keys + offsets, ...); the line
    itself if it has no load."""
    for function in _functions(path):
        for node in ast.walk(function):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) == "tl.load"
                and node.lineno <= line <= (node.end_lineno or node.lineno)
            ):
                pointer = node.args[0]
                while isinstance(pointer, ast.BinOp):
                    pointer = pointer.left
                return f"{function.name}.{ast.unparse(pointer)}"
    return f"{Path(path).name}:{line}"
