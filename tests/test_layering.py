"""Dependencies point one way: kernels <- cdgen <- train, eval, bench."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What a module of each folder may import from the project.
MAY_IMPORT = {
    "kernels": {"kernels"},
    "cdgen": {"kernels", "cdgen"},
    "train": {"kernels", "cdgen", "train"},
    "eval": {"kernels", "cdgen", "eval"},
    "bench": {"kernels", "cdgen", "bench"},
}
# The command line starts the other folders' programs, inside the command that was asked for.
COMMAND_LINE = (Path("cdgen/cli_train.py"), Path("cdgen/cli_eval.py"))

SOURCES = [
    path.relative_to(ROOT) for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py")
]


def folder_of(module: str) -> str | None:
    """`cdgen.train.loop` -> train, `cdgen.plan` -> cdgen, `torch` -> None."""
    parts = [*module.split("."), ""]
    if parts[0] != "cdgen":
        return parts[0] if parts[0] in MAY_IMPORT else None
    return parts[1] if parts[1] in MAY_IMPORT else "cdgen"


def imports(node: ast.AST, in_function: bool = False) -> Iterator[tuple[str, bool]]:
    """Every module that is imported below `node`, and whether a function does it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, in_function) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            source = "." * child.level + (child.module or "")
            yield source, in_function
            yield from ((f"{source}.{alias.name}", in_function) for alias in child.names)
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports(child, in_function or function)


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_imports_point_one_way(source: Path) -> None:
    allowed = MAY_IMPORT[source.parts[0]]
    for module, in_function in imports(ast.parse((ROOT / source).read_text())):
        assert not module.startswith("."), f"relative import of {module}"
        assert module.split(".")[0] not in MAY_IMPORT.keys() - {"cdgen"}, (
            f"{module}: the checkout's folder; installed, it is cdgen.{module}"
        )
        if source in COMMAND_LINE and in_function:
            continue
        folder = folder_of(module)
        assert folder is None or folder in allowed, f"{source.parts[0]} must not import {module}"


@pytest.mark.parametrize("folder", [*sorted(MAY_IMPORT.keys() - {"cdgen"}), "tests"])
def test_only_cdgen_is_a_regular_package(folder: str) -> None:
    """A regular package named `kernels` on sys.path would shadow Hugging Face's, and `import
    transformers` would break."""
    assert not list((ROOT / folder).rglob("__init__.py"))


def test_command_line_starts_without_the_heavy_imports(tmp_path: Path) -> None:
    program = "import sys, cdgen.cli; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.split())
    assert "cdgen.cli" in loaded
    assert not loaded & {"torch", "transformers", "pyarrow", "datasets", "numpy", "pandas"}


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_instruction_sets_share_no_function() -> None:
    """Two objects that define the same inline function leave one of them in the library, and it may
    be the one compiled for AVX2. So no object of a kernel may define a weak or unique function."""
    objects = sorted(ROOT.glob("build/*/CMakeFiles/kernels_*.dir/kernels/cpu/*.o"))
    if not objects:
        pytest.skip("no build folder in this checkout")
    for path in objects:
        run = subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True)
        symbols = re.findall(r"^[0-9a-f]+ (\S) (.+)$", run.stdout, flags=re.MULTILINE)
        # DW.ref.* are not functions: the address of the C++ runtime's exception handler.
        shared = [n for kind, n in symbols if kind in "WVuwv" and not n.startswith("DW.ref.")]
        assert not shared, f"{path.name}: {shared}"
        isa = path.parents[2].name.removeprefix("kernels_").removesuffix(".dir")
        exported = [name for kind, name in symbols if kind == "T"]
        assert exported and all(name.startswith(f"cdgen::{isa}::") for name in exported)
