"""What transformers reports of a load: each fault is refused by name, where transformers would warn
and draw the missing tensors at random."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cdgen.errors import ModelError

Report = dict[str, Any]  # missing_keys, unexpected_keys, mismatched_keys

# Causal masks, which old checkpoints of GPT-2, GPT-J, GPT-Neo, CodeGen and others contain.
_OLD_MASK = re.compile(r"\.(attn|attention)\.(bias|masked_bias|causal_mask)$")
_SHOWN = 3  # tensors of a kind in a message


def require_all_tensors(folder: Path, report: Report) -> None:
    """Raise ModelError if the checkpoint lacks a tensor of the model or has it in another shape."""
    shapes = [
        f"{name} ({list(found)}, not {list(wanted)})"
        for name, found, wanted in report["mismatched_keys"]
    ]
    kinds = {"missing": report["missing_keys"], "of another shape": shapes}
    found = [f"{what}: {_shortened(names)}" for what, names in kinds.items() if names]
    if found and (surplus := _surplus(report)):
        found.append(f"surplus: {_shortened(surplus)}")  # often the missing ones, misspelt
    if found:
        raise _not_belonging(folder, "; ".join(found))


def require_no_surplus(folder: Path, report: Report) -> None:
    """Raise ModelError if the checkpoint holds a weight that the model lacks."""
    if surplus := _surplus(report):
        raise _not_belonging(folder, f"surplus: {_shortened(surplus)}")


def _surplus(report: Report) -> list[str]:
    return [name for name in report["unexpected_keys"] if not _OLD_MASK.search(name)]


def _not_belonging(folder: Path, what: str) -> ModelError:
    return ModelError(
        f"{folder}: its weights and config.json do not belong together ({what}): save both with"
        " save_pretrained of the bare model"
    )


def _shortened(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more


def require_ties(folder: Path, model: Any) -> None:
    """Raise ModelError if config.json ties two tensors that differ in the checkpoint; transformers
    then keeps both, where another program would take one of them."""
    for copy, original in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        if copy not in model.all_tied_weights_keys:
            raise ModelError(
                f"{folder}: config.json ties {copy} to {original}, but the checkpoint holds"
                " different values: set tie_word_embeddings to false, or delete the wrong one"
            )
