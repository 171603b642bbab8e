"""The model card of a pair."""

from __future__ import annotations

from toy_run import RECIPE

from cdgen.train.config import Recipe
from cdgen.train.pair.card import ExportedModel, model_card


def test_the_card_says_what_the_recipe_says() -> None:
    other = {"model": "configs/gpt2.json", "tokenizer": "sentencepiece"}
    training = {**RECIPE["training"], "optimizer": "muon", "max_grad_norm": 0}
    recipe = Recipe.model_validate({**RECIPE, **other, "training": training})
    exported = ExportedModel(9, 1234, {"toys": 2.0, "all": 2.0})
    card = model_card(recipe, exported, exported)
    for says in (
        "pair of small models",
        "- `configs/gpt2.json`, 1,234 parameters",
        "SentencePiece-style",
        "- Muon, learning rate",
        "gradients as is,",
        "| endoftext | no | 1 | 20 % | 0 % |",
    ):
        assert says in card
    assert "- Llama, 1,234 parameters, tied" in model_card(
        Recipe.model_validate(RECIPE), exported, exported
    )
