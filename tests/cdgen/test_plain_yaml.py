"""Settings in YAML: what is refused, in one line that names it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from cdgen.errors import UsageError
from cdgen.settings import read_yaml

ROOT = Path(__file__).resolve().parents[2]
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: 1\na: 2", "'a' is given twice"),
        ("a:\n  b: 1\n  b: 1", "'b' is given twice"),
        (LAUGHS, "*a stands for a value that is elsewhere: write it out"),
        ("a: &x [*x]", "*x stands for"),
        (f"seed: {'9' * 30}", "an integer of more than 64 bits: 999"),
        (f"seed: {'9' * 5000}", "Exceeds the limit"),
        ("date: 2020-13-45", "month must be in 1..12"),
        ("a: !!int ''", "IndexError"),
        ("a: !!bool maybe", "KeyError"),
        ("a: !!timestamp now", "AttributeError"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("? [1]\n: 2", "unhashable key"),
        ("[" * 5000, "more than 20 levels"),
        ("a: \x1b[31m", "special characters are not allowed"),
        (f"# {'x' * (1 << 18)}", "expected at most 256 KB"),
        (b"a: \xff", "can't decode byte"),
    ],
    ids=str.split(
        "twice inside laughs circle int digits date empty bool time code key deep control"
        " large bytes"
    ),
)
def test_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError) as caught:
        read_yaml(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is not valid YAML: ") and said in message
    assert "\n" not in message and len(message) < 500


def test_what_recipes_are_written_in_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: a\nseed: 18446744073709551615\nlist: [1, -2.5, no, 2026-01-31]\n")
    values = read_yaml(path)
    assert values["seed"] == 2**64 - 1
    assert values["list"][:3] == [1, -2.5, False]
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        assert read_yaml(recipe)["name"]


def test_yaml_is_loaded_in_one_place() -> None:
    """Every other use of `yaml` in the package writes."""
    loading = []
    for folder in ("cdgen", "train", "eval"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "yaml"
                    and "load" in node.attr
                ):
                    loading.append(path.name)
    assert loading == ["plain_yaml.py"]


def test_every_record_refuses_unknown_keys() -> None:
    """Of all records, only the sources of a run's recipe, which is read whole afterwards, may hold
    more than they name."""
    from pydantic import BaseModel

    import cdgen.eval.run
    import cdgen.experiment.load
    import cdgen.experiment.record
    import cdgen.generation.config
    import cdgen.train.record  # noqa: F401

    def below(kind: type[BaseModel]) -> set[type[BaseModel]]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    ours = {kind for kind in below(BaseModel) if kind.__module__.startswith("cdgen.")}
    assert len(ours) > 25
    assert [k.__name__ for k in ours if k.model_config.get("extra") != "forbid"] == ["_Sources"]
