"""`cdgen generate --pair FILE` takes GOOD and BAD from a file; only their content counts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdgen.generation.config import GenerateConfig, generate_config

pytestmark = pytest.mark.usefixtures("one_thread")

Command = Callable[..., Any]


@pytest.fixture
def folder(tiny_pair: Any, tmp_path: Path) -> Path:
    """Write models/good, models/bad, and beside `models` a pair.yaml that names them."""
    for role in ("good", "bad"):
        shutil.copytree(getattr(tiny_pair, role), tmp_path / "models" / role)
    write(tmp_path / "pair.yaml")
    return tmp_path


def write(path: Path, **changed: Any) -> Path:
    """Write a pair file; a key with the value None is left out."""
    values = {"good": "models/good", "bad": "models/bad", **changed}
    path.write_text(yaml.safe_dump({key: v for key, v in values.items() if v is not None}))
    return path


@pytest.fixture
def generate(cdgen: Command, prompts: Path) -> Command:
    """Run `cdgen generate` for 5 x 2 short sequences."""

    def run(*flags: object) -> Any:
        small = ("--prompt-tokens", 4, "--max-new-tokens", 6, "--num-sequences", 2)
        return cdgen("generate", *small, "--prompts", prompts, *flags)

    return run


def chosen(folder: Path, file: Path | None = None, **flags: Any) -> GenerateConfig:
    return generate_config({"prompts": "p", "out": "o", **flags}, file, folder / "pair.yaml")


# ---- its meaning ------------------------------------------------------------------------------


def test_the_corpus_is_that_of_the_same_models_given_by_flags(
    generate: Command, folder: Path, published: Command
) -> None:
    """They agree byte for byte, the plan in the manifest included: hashes count, not paths."""
    by_file, by_flags = folder / "by-file", folder / "by-flags"
    assert generate("--pair", folder / "pair.yaml", "--out", by_file).code == 0
    models = ("--good", folder / "models/good", "--bad", folder / "models/bad")
    assert generate(*models, "--out", by_flags).code == 0
    assert published(by_file) == published(by_flags)
    # Each command also continues the corpus of the other.
    assert generate("--pair", folder / "pair.yaml", "--out", by_flags).code == 0


def test_relative_paths_are_relative_to_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    found = generate_config({"prompts": "p", "out": "o"}, None, Path("../pair.yaml"))
    assert found.good.samefile(folder / "models/good")
    assert Path(found.bad).samefile(folder / "models/bad")
    write(folder / "pair.yaml", good=str(folder / "models/good"))
    assert chosen(folder).good == folder / "models/good"


def test_flags_override_the_config_and_the_config_overrides_the_pair_file(folder: Path) -> None:
    config = folder / "config.yaml"
    config.write_text("bad: from-config\nalpha: 0.2\n")
    found = chosen(folder, config)
    assert (found.good, found.bad, found.alpha) == (folder / "models/good", "from-config", 0.2)
    found = chosen(folder, config, bad="from-flag", good="g")
    assert (found.good, found.bad) == (Path("g"), "from-flag")
    config.write_text("good: from-config\n")
    assert chosen(folder, config).good == Path("from-config")


def test_dropout_and_none_are_not_paths(folder: Path) -> None:
    write(folder / "pair.yaml", bad="dropout:0.5")
    assert chosen(folder).bad == "dropout:0.5"
    write(folder / "pair.yaml", bad="none")
    assert chosen(folder, strategy="vanilla").bad == "none"
    (folder / "none").mkdir()
    write(folder / "pair.yaml", bad="./none")
    assert chosen(folder).bad == str(folder / "none")


def test_alternatives_change_nothing(folder: Path) -> None:
    plain = chosen(folder)
    other = {"bad": "gone", "kind": "early", "step": 1, "parameters": 2, "loss": 3.0}
    dropout = {**other, "bad": "dropout:0.5", "kind": "dropout", "loss": None}
    write(folder / "pair.yaml", alternatives=[other, dropout])
    assert chosen(folder) == plain


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "code", "says"),
    [
        ({"good": None}, 2, "found good: Field required"),
        ({"bad": None}, 2, "found bad: Field required"),
        ({"good": ""}, 2, "found good: String should have at least 1"),
        ({"bad": 3}, 2, "found bad: Input should be a valid string, got 3: quote it"),
        ({"worse": "x"}, 2, "found worse: Extra inputs are not permitted"),
        ({"alternatives": [{"bad": "x"}]}, 2, "found alternatives.0.kind: Field required"),
        ({"bad": "dropout:2"}, 2, "expected dropout:P with P between 0 and 1"),
        ({"good": "gone"}, 4, "/gone is not a folder (relative paths are relative to the file)"),
        ({"bad": "gone"}, 4, "give --bad"),
        ({"good": "pair.yaml"}, 4, "/pair.yaml is not a folder"),
    ],
)
def test_a_file_with_a_wrong_value_is_refused(
    generate: Command, folder: Path, changed: dict[str, Any], code: int, says: str
) -> None:
    write(folder / "pair.yaml", **changed)
    ended = generate("--pair", folder / "pair.yaml", "--out", folder / "out")
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err
    assert len(ended.err.splitlines()) <= 2
    assert not (folder / "out").exists()


def test_a_file_that_cannot_be_read_as_yaml_is_refused(generate: Command, folder: Path) -> None:
    for content, says in [(None, "cannot read"), ("- x", "got list"), ("a: [", "not valid YAML")]:
        path = folder / "other.yaml"
        if content:
            path.write_text(content)
        ended = generate("--pair", path, "--out", folder / "out")
        assert ended.code == 2
        assert f"{path}" in ended.err and says in ended.err


def test_a_path_that_a_flag_replaces_need_not_exist(folder: Path) -> None:
    write(folder / "pair.yaml", good="gone", bad="gone")
    assert chosen(folder, good="g", bad="b").bad == "b"


def test_a_pair_is_still_needed(generate: Command, folder: Path) -> None:
    ended = generate("--out", folder / "out")
    assert ended.code == 2
    assert "--good is missing" in ended.err
