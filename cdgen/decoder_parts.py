"""What every lean decoder is made of: its shape, its blocks, and the strict way in for weights.

The kernels are handed addresses and check nothing about a checkpoint, so that every tensor is taken
by name and shape, and what is missing, left over or misshapen is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from cdgen.errors import ModelError
from cdgen.kernels.decoder_ops import rms_norm, swiglu
from cdgen.kernels.gelu import GeluKind, gelu
from cdgen.kernels.layer_norm import layer_norm
from cdgen.linear import Linear, linear

# By the names that transformers gives them. Those of one kind round otherwise in 16 bits, no more.
GELU_KINDS: dict[str, GeluKind] = {
    "gelu": "erf",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "gelu_pytorch_tanh": "tanh",
}


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a model, from its config.json. Models with equal ones can be stacked."""

    architecture: Literal["llama", "gpt2", "gpt_neox"]
    layers: int
    width: int
    inner_width: int  # of the MLP
    heads: int
    kv_heads: int
    head_width: int
    vocab_size: int
    tied: bool  # the head is the embedding
    eps: float  # of the norms
    activation: Literal["silu", "tanh", "erf"]  # of the MLP: silu gates it, the others are gelu's
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    rope: dict[str, Any]  # rope_type, rope_theta and what the type needs
    rotary_width: int  # of a head, what turns with the position: 0 where positions are learned
    head_norms: bool = False  # RMS norm of every query and key head
    parallel: bool = False  # attention and MLP read the same residual stream
    learned_positions: int = 0  # rows of the table


Norm = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]  # x += delta; x normed


@dataclass(frozen=True)
class RmsNorm:
    weight: torch.Tensor  # [D] | [M, D]
    eps: float

    def __call__(self, x: torch.Tensor, delta: torch.Tensor | None) -> torch.Tensor:
        return rms_norm(x, delta, self.weight, self.eps)


@dataclass(frozen=True)
class LayerNorm:
    weight: torch.Tensor  # [D] | [M, D]
    bias: torch.Tensor  # like weight
    eps: float

    def __call__(self, x: torch.Tensor, delta: torch.Tensor | None) -> torch.Tensor:
        return layer_norm(x, delta, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class GatedMlp:
    gate_up: Linear  # [2 F, D]
    down: Linear  # [D, F]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(swiglu(self.gate_up(x)))


@dataclass(frozen=True)
class GeluMlp:
    up: Linear  # [F, D]
    down: Linear  # [D, F]
    kind: GeluKind

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(gelu(self.up(x), self.kind))


@dataclass(frozen=True)
class Layer:
    """One block of one or several models: attention, whose cache the decoder holds, and an MLP."""

    attention_norm: Norm
    qkv: Linear  # [(H + 2 Hkv) * Dh, D]
    query_norm: torch.Tensor | None  # [Dh] | [M, Dh]
    key_norm: torch.Tensor | None  # like query_norm
    out: Linear  # [D, H * Dh]
    mlp_norm: Norm
    mlp: Linear
    parallel: bool

    def after_attention(
        self,
        x: torch.Tensor,  # [R, D]: the residual stream; in a sequential block becomes x + attention
        attended: torch.Tensor,  # [R, H * Dh]
    ) -> torch.Tensor:  # [R, D]: what the block still adds to x
        delta = self.out(attended)
        if self.parallel:
            return self.mlp(self.mlp_norm(x, None)).add_(delta)
        return self.mlp(self.mlp_norm(x, delta))


@dataclass(frozen=True)
class Weights:
    """Of one model, or of M models with a leading M."""

    embedding: torch.Tensor  # [V, D]
    positions: torch.Tensor | None  # [learned_positions, D]
    layers: list[Layer]
    norm: Norm
    head: torch.Tensor  # [V, D]


class CheckpointTensors:
    """The tensors of M checkpoints of one shape, taken out by name and moved one at a time."""

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
        """Raises ModelError unless every model has it in the shape that config.json gives it."""
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
        """One product for several weights that share their input; `outputs`: rows of each."""
        weight = [self.take(f"{name}.weight", rows, inputs) for name, rows in outputs.items()]
        bias = [self.take(f"{name}.bias", rows) for name, rows in outputs.items() if biased]
        return linear(torch.cat(weight, -2), torch.cat(bias, -1) if biased else None, self.rows)

    def layer_norm(self, name: str, width: int, eps: float) -> LayerNorm:
        return LayerNorm(self.take(f"{name}.weight", width), self.take(f"{name}.bias", width), eps)

    def head(self, name: str, embedding: torch.Tensor, config: DecoderConfig) -> torch.Tensor:
        if config.tied:
            self.discard(name)  # some writers save the same tensor again
            return embedding
        return self.take(name, config.vocab_size, config.width)

    def expect_empty(self, family: str, no_weights: tuple[str, ...]) -> None:
        """Raises ModelError on weights that the decoder would ignore; `no_weights`: endings of what
        old checkpoints carry beside theirs."""
        left = sorted({name for tensors in self.models for name in tensors})
        surplus = [name for name in left if not name.endswith(no_weights)]
        if surplus:
            raise ModelError(f"the checkpoint has tensors that a {family} does not: {surplus[:5]}")
