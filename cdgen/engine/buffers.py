"""The host's side of the running batch: the tokens drawn so far, and copies to the device."""

from __future__ import annotations

import numpy as np
import torch

from cdgen.engine.sequences import Request, Sequence
from cdgen.finish_reason import FinishReason


class SequenceBuffer:
    """The tokens and sums of the sequence in every slot, on the host."""

    def __init__(self, slots: int, capacity: int) -> None:
        self.tokens = np.zeros((slots, capacity), dtype=np.int32)
        self.lengths, self.plausible = np.zeros((2, slots), dtype=np.int64)
        self.logprobs = np.zeros(slots)

    def start(self, row: int, prompt: list[int]) -> None:
        self.tokens[row, : len(prompt)] = prompt
        self.lengths[row] = len(prompt)
        self.plausible[row] = self.logprobs[row] = 0

    def append(
        self,
        rows: np.ndarray,  # [N] slots, each at most once
        tokens: np.ndarray,  # [N]
        plausible: np.ndarray,  # [N]
        logprobs: np.ndarray,  # [N]
    ) -> None:
        self.tokens[rows, self.lengths[rows]] = tokens
        self.lengths[rows] += 1
        self.plausible[rows] += plausible
        self.logprobs[rows] += logprobs

    def sequence(
        self, row: int, request: Request, reason: FinishReason, with_logprob: bool
    ) -> Sequence:
        """Return the finished sequence of a slot."""
        tokens = self.tokens[row, : self.lengths[row]].tolist()
        has_logprob = with_logprob and len(tokens) > len(request.prompt)
        return Sequence(
            request.sequence_id,
            tokens,
            len(request.prompt),
            reason,
            plausible=int(self.plausible[row]),
            good_logprob=float(self.logprobs[row]) if has_logprob else None,
        )


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to `device` without blocking the host; pinned, because a pageable copy synchronises."""
    return x if device.type == "cpu" else x.pin_memory().to(device, non_blocking=True)
