"""Matrix products of a decoder step, with weights packed once for their device."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from cdgen.kernels.bf16_logits import PackedHead, bf16_logits

Linear = Callable[[torch.Tensor], torch.Tensor]  # [R, in] -> [R, out]; M models, R / M rows each


def linear(
    weight: torch.Tensor,  # [out, in] | [M, out, in]
    bias: torch.Tensor | None,  # [out] | [M, out]
    rows: int,  # of one model, in most calls
) -> Linear:
    """Return the product x @ weight.T + bias; each of M models applies to its own R / M rows."""
    if weight.device.type != "cpu":
        return StackedLinear(weight, bias) if weight.dim() == 3 else DenseLinear(weight, bias)
    if weight.dim() == 2:
        return PackedLinear(weight, bias, rows)
    biases = [None] * len(weight) if bias is None else list(bias)
    return PackedLinears([PackedLinear(w, b, rows) for w, b in zip(weight, biases, strict=True)])


def head_linear(
    weight: torch.Tensor,  # [V, D]
    rows: int,  # in most calls
) -> Linear:
    """Return the product of a head. On a CPU its logits are float32, whatever its weights."""
    if weight.device.type == "cpu" and weight.dtype is torch.bfloat16:
        return Bf16Head(weight)
    return linear(weight, None, rows)


class PackedLinear:
    """One model on the CPU, with the weight in oneDNN's own layout. float32 or bfloat16, summed in
    fp32; the output is like the input.

    At 64 rows it has 1.7 to 2.7 times the speed of F.linear, which packs the weight again in every
    call (docs/decisions.md, 2026-11-22); bfloat16 has twice the speed of float32 (2026-11-27).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> None:
        self.bias = bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


class Bf16Head:
    """A head on the CPU whose weights are bfloat16 and whose logits are float32."""

    def __init__(self, weight: torch.Tensor) -> None:  # [V, D] bfloat16
        self.packed = PackedHead(weight.contiguous())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return bf16_logits(x, self.packed)


class PackedLinears:
    """Several models on the CPU, one after the other, with the same bits as each model alone."""

    def __init__(self, models: list[PackedLinear]) -> None:
        self.models = models

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        shares = x.chunk(len(self.models))
        return torch.cat([model(own) for model, own in zip(self.models, shares, strict=True)])


class DenseLinear:
    """One model on a GPU."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias = weight.contiguous(), bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


class StackedLinear:
    """Several models on a GPU in one launch."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = weight.contiguous().mT  # [M, in, out], read as F.linear reads its weight
        self.bias = None if bias is None else bias[:, None]  # [M, 1, out]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        own = x.view(len(self.weight), -1, x.shape[-1])
        if self.bias is None:
            return torch.bmm(own, self.weight).flatten(0, 1)
        return torch.baddbmm(self.bias, own, self.weight).flatten(0, 1)
