"""A linear layer on a CPU, with its weights packed once."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cdgen.kernels import reference
from cdgen.kernels.arguments import addresses, check_dtype, check_tensor, dtype_name
from cdgen.kernels.dispatch import choose_backend, native, threads
from cdgen.kernels.recording import empty

_PANEL = 32  # outputs, as kernels/cpu/packed_linear.cpp reads them


class PackedWeights:
    """Weights in panels of 32 outputs, filled up with zeros: of one model, or of M models."""

    def __init__(
        self,
        weight: torch.Tensor,  # [out, in] | [M, out, in], float32 | bfloat16
        bias: torch.Tensor | None,  # [out] | [M, out], like weight
    ) -> None:
        check_dtype("weight", weight, "cpu")
        whole = weight.reshape(-1, *weight.shape[-2:])
        self.models, self.outputs, self.inputs = whole.shape
        if bias is not None:
            check_tensor("bias", bias, tuple(weight.shape[:-1]), weight.dtype)
        self.bias = None if bias is None else bias.float()
        self.unit = 4 // weight.element_size()  # inputs that a kernel reads at a time
        missing = -self.inputs % self.unit, -self.outputs % _PANEL
        padded = F.pad(whole, (0, missing[0], 0, missing[1]))
        panels = padded.reshape(self.models, padded.shape[1] // _PANEL, _PANEL, -1, self.unit)
        self.panels = panels.transpose(2, 3).contiguous()  # [M, out / 32, in / unit, 32, unit]

    def unpacked(self) -> torch.Tensor:  # [M, out, in]
        whole = self.panels.transpose(2, 3).flatten(3).flatten(1, 2)
        return whole[:, : self.outputs, : self.inputs]


def packed_linear(
    x: torch.Tensor,  # [R, in], contiguous, like the weights
    weights: PackedWeights,  # of M models: row r takes those of model r // (R / M)
    addend: torch.Tensor | None = None,  # [R, out], like x
    out_dtype: torch.dtype | None = None,  # float32, or x's, which is the default
    backend: str | None = None,
) -> torch.Tensor:  # [R, out]
    """Return x @ weight.T + bias + addend, summed in fp32 and rounded once.

    The sums of a row have one order, whatever the other rows, the threads and, with AVX2 or more,
    the processor. Raises ValueError on tensors that do not fit; there is no Triton kernel.
    """
    rows, outputs, models = x.shape[0], weights.outputs, weights.models
    dtype, out_dtype = weights.panels.dtype, out_dtype or weights.panels.dtype
    chosen = choose_backend(x.device, backend)
    check_tensor("x", x, (rows, weights.inputs), dtype)
    if models > 1 and rows % models:
        raise ValueError(f"x: expected rows that {models} models share evenly, got {rows}")
    if addend is not None:
        check_tensor("addend", addend, (rows, outputs), dtype)
    if out_dtype not in (dtype, torch.float32):
        raise ValueError(f"out_dtype: expected {dtype} or torch.float32, got {out_dtype}")
    if chosen == "triton":
        raise ValueError("backend: packed_linear has no triton kernel; expected cpu or reference")
    if chosen == "reference":
        return _reference(x, weights, addend).to(out_dtype)
    out = empty(rows, outputs, dtype=out_dtype)
    pointers = addresses(x, weights.panels, weights.bias, addend, out)
    dtypes = dtype_name(dtype), dtype_name(out_dtype)
    native.packed_linear(*pointers, *dtypes, rows, models, weights.inputs, outputs, threads())
    return out


def _reference(
    x: torch.Tensor, weights: PackedWeights, addend: torch.Tensor | None
) -> torch.Tensor:  # [R, out] float32
    biases = (
        [None] * weights.models if weights.bias is None else weights.bias.view(weights.models, -1)
    )
    shares = zip(x.chunk(weights.models), weights.unpacked(), biases, strict=True)
    out = torch.cat([reference.linear(own, weight, bias) for own, weight, bias in shares])
    return out if addend is None else out + addend.float()
