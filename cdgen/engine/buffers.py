"""What the host keeps of the running sequences, and how it sends tensors to the device."""

from __future__ import annotations

import numpy as np
import torch

from cdgen.engine.sequences import FinishReason, Request, Sequence


class SequenceBuffer:
    """What stands in every slot, on the host."""

    def __init__(self, slots: int, capacity: int) -> None:
        self.tokens = np.zeros((slots, capacity), dtype=np.int32)
        self.lengths, self.plausible = np.zeros((2, slots), dtype=np.int64)
        self.logprobs = np.zeros(slots)

    def start(self, row: int, prompt: list[int]) -> None:
        self.tokens[row, : len(prompt)] = prompt
        self.lengths[row] = len(prompt)
        self.plausible[row] = self.logprobs[row] = 0

    def append(
        self, rows: np.ndarray, tokens: np.ndarray, plausible: np.ndarray, logprobs: np.ndarray
    ) -> None:  # [N] each
        self.tokens[rows, self.lengths[rows]] = tokens
        self.lengths[rows] += 1
        self.plausible[rows] += plausible
        self.logprobs[rows] += logprobs

    def sequence(
        self, row: int, request: Request, reason: FinishReason, logprobs: bool
    ) -> Sequence:
        tokens = self.tokens[row, : self.lengths[row]].tolist()
        prompt = len(request.prompt)
        has_logprob = logprobs and len(tokens) > prompt
        return Sequence(
            request.sequence_id, tokens, prompt, reason, int(self.plausible[row]),
            float(self.logprobs[row]) if has_logprob else None,
        )  # fmt: skip


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Without a wait: from ordinary memory, CUDA would first let the GPU finish."""
    return x if device.type == "cpu" else x.pin_memory().to(device, non_blocking=True)
