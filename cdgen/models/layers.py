"""The blocks of a lean decoder: norms, MLPs, and the layer around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cdgen.kernels.gelu import GeluKind, gelu
from cdgen.kernels.layer_norm import layer_norm
from cdgen.kernels.rms_norm import rms_norm
from cdgen.kernels.swiglu import swiglu
from cdgen.models.linear import Linear

Norm = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]  # x += delta; return norm(x)


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

    def __call__(self, x: torch.Tensor, addend: torch.Tensor | None = None) -> torch.Tensor:
        return self.down(swiglu(self.gate_up(x)), addend)


@dataclass(frozen=True)
class GeluMlp:
    up: Linear  # [F, D]
    down: Linear  # [D, F]
    kind: GeluKind

    def __call__(self, x: torch.Tensor, addend: torch.Tensor | None = None) -> torch.Tensor:
        return self.down(gelu(self.up(x), self.kind), addend)


@dataclass(frozen=True)
class Layer:
    """One layer of one or several models: attention, whose cache the decoder holds, and an MLP."""

    attention_norm: Norm
    qkv: Linear  # [(H + 2 Hkv) * Dh, D]
    query_norm: torch.Tensor | None  # [Dh] | [M, Dh]
    key_norm: torch.Tensor | None  # like query_norm
    out: Linear  # [D, H * Dh]
    mlp_norm: Norm
    mlp: Linear
    parallel_residual: bool

    def after_attention(
        self,
        x: torch.Tensor,  # [R, D]: the residual stream; becomes x + attention unless parallel
        attention_out: torch.Tensor,  # [R, H * Dh]
    ) -> torch.Tensor:  # [R, D]: still to be added to x
        delta = self.out(attention_out)
        if self.parallel_residual:
            return self.mlp(self.mlp_norm(x, None), delta)
        return self.mlp(self.mlp_norm(x, delta))
