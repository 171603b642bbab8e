"""Matrix products of a decoder step, with weights laid out once for their device."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

from cdgen.kernels.packed_linear import PackedWeights, packed_linear


class Linear(Protocol):
    """The product x @ weight.T + bias + addend; each of M models applies to its own R / M rows."""

    def __call__(
        self,
        x: torch.Tensor,  # [R, in]
        addend: torch.Tensor | None = None,  # [R, out]
    ) -> torch.Tensor: ...  # [R, out], like x


def linear(
    weight: torch.Tensor,  # [out, in] | [M, out, in]
    bias: torch.Tensor | None,  # [out] | [M, out]
) -> Linear:
    """Return the product on the weight's device."""
    if weight.device.type == "cpu":
        return PackedLinear(weight, bias)
    return StackedLinear(weight, bias) if weight.dim() == 3 else DenseLinear(weight, bias)


def head_linear(
    weight: torch.Tensor,  # [V, D]
) -> Linear:
    """Return the product of a head. On a CPU its logits are float32, whatever its weights: rounding
    them to bf16 would change the distribution more than all other roundings of a bf16 decoder
    together (docs/decisions.md, 2026-11-27)."""
    if weight.device.type == "cpu":
        return PackedLinear(weight, None, out_dtype=torch.float32)
    return linear(weight, None)


class PackedLinear:
    """One or several models on the CPU. A model's bits do not depend on the others."""

    def __init__(
        self,
        weight: torch.Tensor,  # [out, in] | [M, out, in]
        bias: torch.Tensor | None,  # [out] | [M, out]
        out_dtype: torch.dtype | None = None,  # float32, or the weight's, which is the default
    ) -> None:
        self.weights, self.out_dtype = PackedWeights(weight, bias), out_dtype

    def __call__(self, x: torch.Tensor, addend: torch.Tensor | None = None) -> torch.Tensor:
        return packed_linear(x, self.weights, addend, self.out_dtype)


class DenseLinear:
    """One model on a GPU."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias = weight.contiguous(), bias

    def __call__(self, x: torch.Tensor, addend: torch.Tensor | None = None) -> torch.Tensor:
        out = F.linear(x, self.weight, self.bias)
        return out if addend is None else out.add_(addend)


class StackedLinear:
    """Several models on a GPU in one launch."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = weight.contiguous().mT  # [M, in, out], read as F.linear reads its weight
        self.bias = None if bias is None else bias[:, None]  # [M, 1, out]

    def __call__(self, x: torch.Tensor, addend: torch.Tensor | None = None) -> torch.Tensor:
        own = x.view(len(self.weight), -1, x.shape[-1])
        if self.bias is None:
            out = torch.bmm(own, self.weight).flatten(0, 1)
        else:
            out = torch.baddbmm(self.bias, own, self.weight).flatten(0, 1)
        return out if addend is None else out.add_(addend)
