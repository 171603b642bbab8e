"""Imports point one way between the rooms and form no circle, and `cdgen --help` loads nothing
heavy."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The rooms of the project, and the other rooms that each may import. `leaves` are the modules
# directly in cdgen/: errors, storage and so on.
MAY_IMPORT = {
    "kernels": set(),
    "leaves": {"kernels"},
    "checkpoints": {"leaves"},
    "models": {"kernels", "leaves"},
    "engine": {"kernels", "leaves", "models"},
    "hf": {"kernels", "leaves", "engine"},
    "corpus": {"leaves"},
    "generation": {"kernels", "leaves", "checkpoints", "models", "engine", "corpus"},
    "train": {"leaves", "checkpoints", "models", "corpus"},
    "eval": {"kernels", "leaves", "checkpoints", "corpus"},
}
MAY_IMPORT |= {"page": {"leaves"}}
MAY_IMPORT |= {"inspection": {*MAY_IMPORT} - {"train", "eval"}}
MAY_IMPORT |= {"report": {"leaves", "checkpoints", "corpus", "eval", "page", "inspection"}}
MAY_IMPORT |= {"experiment": {*MAY_IMPORT}}
EVERYTHING = {*MAY_IMPORT, "cli"}
MAY_IMPORT |= {"cli": EVERYTHING, "bench": EVERYTHING}

FOLDERS = ("kernels", "cdgen", "train", "eval", "bench")
SOURCES = [path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
# `python -m cdgen` and `python -m cdgen.train` start the command line.
PROGRAMS = (Path("cdgen/__main__.py"), Path("train/__main__.py"))


def module_of(source: Path) -> str:
    """Name a source file as it is imported: kernels/gpu/gelu.py is cdgen.kernels.gpu.gelu."""
    parts = source.with_suffix("").parts
    name = ".".join(parts if parts[0] == "cdgen" else ("cdgen", *parts))
    return name.removesuffix(".__init__")


MODULES = {module_of(source): source for source in SOURCES}


def room_of(module: str) -> str:
    """Return the room of a module: train for cdgen.train.loop, leaves for cdgen.errors."""
    room = [*module.split("."), ""][1]
    return room if room in MAY_IMPORT else "leaves"


def imported_names(source: Path) -> Iterator[str]:
    """Yield every name imported in a file, in functions too; `from a import b` yields a.b."""
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def imported_modules(source: Path) -> set[str]:
    """Return the modules of the project that a file imports."""
    found = set()
    for name in imported_names(source):
        parent = name.rpartition(".")[0]  # `name` may be a function or class of this module
        found |= {name} & MODULES.keys() or {parent} & MODULES.keys()
    return found


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_imports_are_absolute_and_by_installed_name(source: Path) -> None:
    for name in imported_names(source):
        assert not name.startswith("."), f"relative import of {name}"
        assert name.split(".")[0] not in {*FOLDERS} - {"cdgen"}, (
            f"{name} is a folder of the checkout; import cdgen.{name}"
        )


@pytest.mark.parametrize("source", sorted({*SOURCES} - {*PROGRAMS}), ids=str)
def test_imports_point_one_way(source: Path) -> None:
    room = room_of(module_of(source))
    for module in imported_modules(source):
        other = room_of(module)
        assert other in MAY_IMPORT[room] | {room}, f"{room} must not import {module}"


def test_imports_form_no_circle() -> None:
    """Imports inside functions and under TYPE_CHECKING count, because a reader follows them too."""
    graph = {name: imported_modules(source) - {name} for name, source in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_corpus_and_command_line_do_not_import_torch() -> None:
    for module, source in MODULES.items():
        if room_of(module) in ("corpus", "cli"):
            heavy = {name.split(".")[0] for name in imported_names(source)} & {"torch"}
            assert not heavy, f"{module} imports {heavy}"


@pytest.mark.parametrize("folder", ["kernels", "train", "eval", "bench", "tests"])
def test_only_cdgen_is_a_regular_package(folder: str) -> None:
    """A regular package named `kernels` on sys.path would shadow the one of Hugging Face and break
    `import transformers`."""
    assert not list((ROOT / folder).rglob("__init__.py"))


def test_command_line_starts_without_the_heavy_imports(tmp_path: Path) -> None:
    program = "import sys, cdgen.cli.app; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.split())
    assert "cdgen.cli.app" in loaded
    assert not loaded & {"torch", "transformers", "pyarrow", "datasets", "numpy", "pandas"}


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_instruction_sets_share_no_function() -> None:
    """No object of a kernel defines a weak or unique function, or runs code at load time.

    If two objects define the same inline function, the linker keeps one of them, and it may be the
    one compiled for AVX-512. Code that initialises a variable runs on every processor.
    """
    objects = sorted(ROOT.glob("build/*/CMakeFiles/kernels_*.dir/kernels/cpu/*.o"))
    if not objects:
        pytest.skip("no build folder in this checkout")
    for path in objects:
        run = subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True)
        symbols = re.findall(r"^[0-9a-f]+ (\S) (.+)$", run.stdout, flags=re.MULTILINE)
        # DW.ref.* is not a function but the address of the C++ runtime's exception handler.
        shared = [n for kind, n in symbols if kind in "WVuwv" and not n.startswith("DW.ref.")]
        assert not shared, f"{path.name}: {shared}"
        assert "_GLOBAL__sub_I" not in run.stdout, f"{path.name} initialises a variable"
        isa = path.parents[2].name.removeprefix("kernels_").removesuffix(".dir")
        exported = [name for kind, name in symbols if kind == "T"]
        assert exported and all(name.startswith(f"cdgen::{isa}::") for name in exported)
