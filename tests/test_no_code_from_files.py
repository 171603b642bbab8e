"""Nothing in the package turns the content of a file into code, or a text into a command."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS_CODE = {"eval", "exec", "compile", "os.system", "os.popen", "subprocess.getoutput"}
UNPICKLES = {"pickle", "dill", "shelve", "marshal", "joblib", "cloudpickle"}


def calls() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield every call in the package: its place, what is called, and its named arguments."""
    for folder in ("cdgen", "kernels", "train", "eval"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    named = {k.arg or "": ast.unparse(k.value) for k in node.keywords}
                    place = f"{path.relative_to(ROOT)}:{node.lineno}"
                    yield place, ast.unparse(node.func), named


def imports() -> Iterator[tuple[str, str]]:
    for folder in ("cdgen", "kernels", "train", "eval"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                yield from ((str(path), name.split(".")[0]) for name in names)


def test_no_content_of_a_file_becomes_code() -> None:
    found = [*calls()]
    assert len(found) > 3000
    assert [place for place, name, _ in found if name in RUNS_CODE] == []
    assert [place for place, _, named in found if named.get("shell") == "True"] == []
    assert [place for place, _, named in found if "allow_pickle" in named] == []
    assert [place for place, name in imports() if name in UNPICKLES] == []


def test_torch_unpickles_weights_alone() -> None:
    loads = [(place, named) for place, name, named in calls() if name == "torch.load"]
    assert [place.split(":")[0] for place, _ in loads] == ["train/trainer.py"]
    assert all(named.get("weights_only") == "True" for _, named in loads)
