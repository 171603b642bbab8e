"""The optimizer, AdamW or Muon with AdamW, and the weights that decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Embedding
from torch.optim import AdamW, Muon, Optimizer
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from cdgen.train.config import Training


def new_optimizer(model: PreTrainedModel, training: Training) -> Optimizer:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    by_muon = hidden_matrices(model) if training.optimizer == "muon" else set()
    decayed = decayed_names(model, training.decay)
    groups = [
        {
            "params": [p for n, p in trained.items() if n not in by_muon and (n in decayed) == on],
            "weight_decay": training.weight_decay if on else 0.0,
        }
        for on in (True, False)
    ]
    rate = training.learning_rate
    adamw = AdamW(
        [group for group in groups if group["params"]],
        lr=rate,
        betas=(0.9, training.beta2),
        fused=True,
    )
    if not by_muon:
        return adamw
    muon = Muon(
        [p for name, p in trained.items() if name in by_muon],
        lr=rate,
        weight_decay=training.weight_decay,
        adjust_lr_fn="match_rms_adamw",  # updates of AdamW's size, so one learning rate serves both
    )
    return MuonWithAdamW(muon, adamw)


def decayed_names(model: PreTrainedModel, decay: str) -> set[str]:
    names = dict(model.named_parameters())
    if decay == "paper":
        return {n for n in names if "bias" not in n and "layer_norm.weight" not in n}
    embeddings = _embeddings(model)
    return {n for n, p in names.items() if p.ndim >= 2 and id(p) not in embeddings}


def hidden_matrices(model: PreTrainedModel) -> set[str]:
    """Return the names of the weights that Muon is made for: 2-D, neither embedding nor head."""
    head = model.get_output_embeddings()
    spared = _embeddings(model) | ({id(head.weight)} if head is not None else set())
    return {n for n, p in model.named_parameters() if p.ndim == 2 and id(p) not in spared}


def _embeddings(model: PreTrainedModel) -> set[int]:
    """Return the ids of embeddings. A head tied to the embedding is the same parameter."""
    modules = (module for module in model.modules() if isinstance(module, Embedding))
    return {id(p) for module in modules for p in module.parameters(recurse=False)}


class MuonWithAdamW(Optimizer):
    """Two optimizers behind one interface: one state to save, one list of groups to schedule.

    Groups and state are shared, not copied: a value that the schedule writes into a group reaches
    the optimizer.
    """

    def __init__(self, muon: Muon, adamw: AdamW) -> None:
        self.muon, self.adamw = muon, adamw
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        count = len(self.muon.param_groups)
        self.muon.param_groups = self.param_groups[:count]
        self.adamw.param_groups = self.param_groups[count:]
        self.muon.state = self.adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.muon.step()
        self.adamw.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)  # replaces groups and state
        self._share()
