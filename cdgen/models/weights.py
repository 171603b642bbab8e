"""The weights of a lean decoder. Every tensor of a checkpoint is taken by name and shape, because
the kernels get addresses and cannot check them; missing and surplus tensors are reported by
name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cdgen.errors import ModelError
from cdgen.models.config import DecoderConfig
from cdgen.models.layers import Layer, LayerNorm, Norm
from cdgen.models.linear import Linear, linear


@dataclass(frozen=True)
class Weights:
    """The weights of one model, or of M models with a leading dimension M."""

    embedding: torch.Tensor  # [V, D]
    positions: torch.Tensor | None  # [learned_positions, D]
    layers: list[Layer]
    norm: Norm
    head: torch.Tensor  # [V, D]


class CheckpointTensors:
    """The tensors of M checkpoints of one shape, taken by name and moved to the device one by
    one."""

    def __init__(
        self,
        models: Sequence[dict[str, torch.Tensor]],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.models = [dict(tensors) for tensors in models]
        self.device, self.dtype = device, dtype

    def take(self, name: str, *shape: int) -> torch.Tensor:  # shape | [M, *shape]
        """Take a tensor from every model. Raises ModelError unless each has it in this shape."""
        found = []
        for tensors in self.models:
            tensor = tensors.pop(name, None)
            if tensor is None:
                raise ModelError(
                    f"the checkpoint has no tensor {name}, which its config.json asks for"
                )
            if tensor.shape != shape:
                raise ModelError(
                    f"the checkpoint has {name} as {list(tensor.shape)}, its config.json asks for"
                    f" {list(shape)}: one of them is another model's"
                )
            found.append(tensor.to(self.device, self.dtype))
        return found[0] if len(found) == 1 else torch.stack(found)

    def linear(self, outputs: dict[str, int], inputs: int, biased: bool) -> Linear:
        """Return one product for several weights with the same input; `outputs` gives their
        rows."""
        weight = [self.take(f"{name}.weight", rows, inputs) for name, rows in outputs.items()]
        bias = [self.take(f"{name}.bias", rows) for name, rows in outputs.items() if biased]
        return linear(torch.cat(weight, -2), torch.cat(bias, -1) if biased else None)

    def layer_norm(self, name: str, width: int, eps: float) -> LayerNorm:
        return LayerNorm(self.take(f"{name}.weight", width), self.take(f"{name}.bias", width), eps)

    def embedding_and_head(
        self, embedding: str, head: str, config: DecoderConfig
    ) -> tuple[torch.Tensor, torch.Tensor]:  # both [V, D] | [M, V, D]
        """Take the embedding and the head, which are one tensor if the config ties them.

        Some writers then save it twice, or under the head's name. Raises ModelError if the two
        differ: another program may use the one that is left out here.
        """
        shape = config.vocab_size, config.hidden_size
        if not config.tie_word_embeddings:
            return self.take(embedding, *shape), self.take(head, *shape)
        for tensors in self.models:
            copy = tensors.pop(head, None)
            if copy is not None and not torch.equal(tensors.setdefault(embedding, copy), copy):
                raise ModelError(
                    f"config.json ties {head} to {embedding} (tie_word_embeddings), but the"
                    " checkpoint holds different values: set it to false, or delete the wrong one"
                )
        shared = self.take(embedding, *shape)
        return shared, shared

    def expect_empty(self, family: str, no_weights: tuple[str, ...]) -> None:
        """Raise ModelError if tensors are left that the decoder would ignore, unless their names
        end in one of `no_weights`, buffers that old checkpoints contain."""
        left = sorted({name for tensors in self.models for name in tensors})
        surplus = [name for name in left if not name.endswith(no_weights)]
        if surplus:
            raise ModelError(f"the checkpoint has tensors that a {family} does not: {surplus[:5]}")
