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
        rows: int,  # of each model in a step
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.models = [dict(tensors) for tensors in models]
        self.rows, self.device, self.dtype = rows, device, dtype

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

    def discard(self, name: str) -> None:
        for tensors in self.models:
            tensors.pop(name, None)

    def linear(self, outputs: dict[str, int], inputs: int, biased: bool) -> Linear:
        """Return one product for several weights with the same input; `outputs` gives their
        rows."""
        weight = [self.take(f"{name}.weight", rows, inputs) for name, rows in outputs.items()]
        bias = [self.take(f"{name}.bias", rows) for name, rows in outputs.items() if biased]
        return linear(torch.cat(weight, -2), torch.cat(bias, -1) if biased else None, self.rows)

    def layer_norm(self, name: str, width: int, eps: float) -> LayerNorm:
        return LayerNorm(self.take(f"{name}.weight", width), self.take(f"{name}.bias", width), eps)

    def head(self, name: str, embedding: torch.Tensor, config: DecoderConfig) -> torch.Tensor:
        if config.tie_word_embeddings:
            self.discard(name)  # some writers save the same tensor again
            return embedding
        return self.take(name, config.vocab_size, config.hidden_size)

    def expect_empty(self, family: str, no_weights: tuple[str, ...]) -> None:
        """Raise ModelError if tensors are left that the decoder would ignore, unless their names
        end in one of `no_weights`, buffers that old checkpoints contain."""
        left = sorted({name for tensors in self.models for name in tensors})
        surplus = [name for name in left if not name.endswith(no_weights)]
        if surplus:
            raise ModelError(f"the checkpoint has tensors that a {family} does not: {surplus[:5]}")
