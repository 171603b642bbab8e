from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from cdgen.errors import UsageError
from cdgen.train.config import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def test_the_demo_recipe_loads() -> None:
    recipe = load_recipe(RECIPES / "demo.yaml")
    assert recipe.name == "demo"
    assert recipe.model.hidden_size // recipe.model.num_attention_heads == 32


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        (None, "sed", 1, "sed: Extra inputs"),
        (None, "seed", "soon", "seed: Input should be a valid integer"),
        (None, "sources", [], "sources: "),
        (None, "vocab_size", 260, "vocab_size: .* 261"),
        ("model", "num_key_value_heads", 4, "multiple of num_key_value_heads"),
        ("model", "hidden_size", 100, "multiple of num_attention_heads"),
        ("model", "hiden_size", 1, r"model.hiden_size: Extra inputs .* permitted;"),
        ("training", "steps", 2501, "multiple of checkpoint_every"),
        ("training", "micro_batch_blocks", 3, "multiple of micro_batch_blocks"),
        ("training", "learning_rate", 0, "training.learning_rate"),
        ("training", "learning_rate", math.inf, "training.learning_rate: .*finite"),
        ("training", "learning_rate", math.nan, "training.learning_rate"),
        ("training", "weight_decay", math.inf, "training.weight_decay: .*finite"),
        ("training", "max_grad_norm", math.inf, "training.max_grad_norm: .*finite"),
        ("training", "steps", "1e9", "training.steps: .*integer"),
        ("training", "warmup_steps", 2251, "warmup_steps must be at most steps"),
        ("model", "hidden_size", 18, "a head's size, must be even"),
        (None, "bad_gap", math.inf, "bad_gap: .*finite"),
        (None, "seed", -1, "seed: .*greater than or equal to 0"),
        (None, "seed", 2**32, "seed: .*less than 4294967296"),
        (None, "split_seed", -1, "split_seed: .*greater than or equal to 0"),
    ],
)
def test_a_wrong_field_is_named(
    tmp_path: Path, section: str | None, field: str, value: object, message: str
) -> None:
    recipe = yaml.safe_load((RECIPES / "demo.yaml").read_text())
    (recipe[section] if section else recipe)[field] = value
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def refusal(folder: Path, content: str) -> str:
    (folder / "recipe.yaml").write_text(content)
    with pytest.raises(UsageError) as caught:
        load_recipe(folder / "recipe.yaml")
    return str(caught.value).removeprefix(f"{folder / 'recipe.yaml'}: ")


def test_every_wrong_field_is_named(tmp_path: Path) -> None:
    recipe = yaml.safe_load((RECIPES / "demo.yaml").read_text())
    recipe["sed"] = 1
    recipe["sources"][1]["repeat"] = 0
    recipe["training"]["steps"] = "soon"
    recipe["tokenizer"] = 5
    del recipe["vocab_size"]
    parts = refusal(tmp_path, yaml.safe_dump(recipe)).split("; ")
    assert parts == [
        "tokenizer: Input should be 'byte-level' or 'sentencepiece'",
        "vocab_size: Field required",
        "sources.1.repeat: Input should be greater than or equal to 1",
        "training.steps: Input should be a valid integer, unable to parse string as an integer",
        "sed: Extra inputs are not permitted",
        "correct the recipe",
    ]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("no", "got False (YAML takes yes, no, on and off for that): quote it if it is text"),
        ("On", "got True (YAML takes yes, no, on and off for that): quote it if it is text"),
        ("2024", "got 2024: quote it if it is text"),
        ("1e3", None),
        ("1.5", "got 1.5: quote it if it is text"),
        ("2024-01-31", "got 2024-01-31: quote it if it is text"),
        ("'no'", None),
    ],
)
def test_what_yaml_takes_for_something_else(tmp_path: Path, written: str, said: str | None) -> None:
    text = (RECIPES / "demo.yaml").read_text().replace("name: demo\n", f"name: {written}\n")
    if said is None:
        (tmp_path / "recipe.yaml").write_text(text)
        assert load_recipe(tmp_path / "recipe.yaml").name == written.strip("'")
    else:
        expected = f"name: Input should be a valid string, {said}; correct the recipe"
        assert refusal(tmp_path, text) == expected


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    recipe = yaml.safe_load((RECIPES / "demo.yaml").read_text())
    recipe["sources"][1]["name"] = recipe["sources"][0]["name"]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(UsageError, match="different names"):
        load_recipe(path)


@pytest.mark.parametrize("name", ["real", "all"])
def test_names_that_a_run_uses_itself_are_refused(tmp_path: Path, name: str) -> None:
    """They are the stream of all sources and the loss over all of them."""
    recipe = yaml.safe_load((RECIPES / "demo.yaml").read_text())
    recipe["sources"][1]["name"] = name
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(UsageError, match=f"{name}: expected another name"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "stories"}, "sources.0.format: Extra inputs"),
        ({"split": "words"}, "sources.0.split: Input should be 'rows'"),
        ({"split": "length"}, "`words` above 0 and `split: length` go together"),
        ({"words": 9}, "`words` above 0 and `split: length` go together"),
        ({"titles": ["A"]}, "goes with `split: chapters`"),
        ({"validation": 1.0}, "sources.0.validation: .*less than 1"),
        ({"prompts": -0.1}, "sources.0.prompts: .*greater than or equal to 0"),
        ({"validation": 0.6, "prompts": 0.4}, "leave nothing to train on"),
    ],
)
def test_a_source_that_contradicts_itself_is_refused(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    recipe = yaml.safe_load((RECIPES / "demo.yaml").read_text())
    recipe["sources"][0].update(fields)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(UsageError, match=message):
        load_recipe(path)


def test_a_recipe_that_measures_nothing_is_refused(tmp_path: Path) -> None:
    recipe = yaml.safe_load((RECIPES / "demo.yaml").read_text())
    for source in recipe["sources"]:
        source["validation"] = 0
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(UsageError, match="nothing to measure"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b"a: [", "not valid YAML"),
        (b"\xff", "not valid YAML"),
        (b"", "expected `name: value` lines"),
    ],
    ids=["missing", "not yaml", "not utf-8", "empty"],
)
def test_an_unreadable_recipe_is_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        load_recipe(path)
