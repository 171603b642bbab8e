"""GOOD's logits on a CPU in float32, from hidden states and a head in bfloat16.

oneDNN's bf16 product rounds its result to bf16, which changes the distribution more than all other
roundings of a bf16 decoder together (docs/decisions.md, 2026-11-27).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cdgen.kernels import reference
from cdgen.kernels.arguments import addresses, check_tensor
from cdgen.kernels.dispatch import choose_backend, native, threads

_PANEL = 32  # tokens, as kernels/cpu/bf16_logits.cpp reads them


class PackedHead:
    """A head, its rows in panels of 32 and its columns in pairs, filled up with zeros."""

    def __init__(
        self,
        weight: torch.Tensor,  # [V, D] bfloat16
    ) -> None:
        self.vocab_size, self.hidden_size = weight.shape
        check_tensor("weight", weight, (self.vocab_size, self.hidden_size), torch.bfloat16)
        missing = -self.hidden_size % 2, -self.vocab_size % _PANEL
        whole = F.pad(weight, (0, missing[0], 0, missing[1]))
        pairs = whole.view(len(whole) // _PANEL, _PANEL, -1, 2)
        self.panels = pairs.transpose(1, 2).contiguous()  # [V / 32, D / 2, 32, 2]

    def unpacked(self) -> torch.Tensor:  # [V, D] bfloat16
        whole = self.panels.transpose(1, 2).flatten(2).flatten(0, 1)
        return whole[: self.vocab_size, : self.hidden_size]


def bf16_logits(
    hidden: torch.Tensor,  # [R, D] bfloat16, contiguous
    head: PackedHead,
    backend: str | None = None,
) -> torch.Tensor:  # [R, V] float32
    """Return the logits, summed in fp32 and never rounded to bf16.

    A row's sums have one order, whatever the other rows and the threads. Raises ValueError on
    tensors that do not fit; there is no Triton kernel.
    """
    chosen = choose_backend(hidden.device, backend)
    check_tensor("hidden", hidden, (len(hidden), head.hidden_size), torch.bfloat16)
    if chosen == "triton":
        raise ValueError("backend: bf16_logits has no triton kernel; expected cpu or reference")
    if chosen == "reference":
        return reference.head_logits(hidden, head.unpacked(), None)
    pairs = head.panels.shape[1]
    if 2 * pairs > head.hidden_size:
        hidden = F.pad(hidden, (0, 1))
    out = torch.empty(len(hidden), head.vocab_size)
    pointers = addresses(hidden, head.panels, out)
    native.bf16_logits(*pointers, len(hidden), pairs, head.vocab_size, threads())
    return out
