"""Several steps of the slots in one launch: in a loop on a CPU, as one CUDA graph on a GPU."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from cdgen.engine.slots import Slots

STEPS = 4  # per graph on a GPU: a slot that ends waits for 6 steps on average, of 400 or so


class Records(NamedTuple):
    """The outcome of S steps, on the host."""

    events: np.ndarray  # [S, 3, B] int32, as `Slots.step` writes them
    logprobs: np.ndarray  # [S, B] float64


class InFlightSteps:
    """Steps that were launched and may still be running."""

    def __init__(self, host: list[torch.Tensor], event: torch.cuda.Event | None) -> None:
        self.host, self.event = host, event

    def is_done(self) -> bool:
        return self.event is None or self.event.query()

    def result(self) -> Records:
        """Wait for the steps and return their records, which stay valid on a GPU until the launch
        after the next."""
        if self.event is not None:
            self.event.synchronize()
        return Records(*(tensor.numpy() for tensor in self.host))


class GraphRunner:
    """Launches S steps of the slots.

    On a GPU a launch returns at once, and up to `ahead` more may follow before its result is read.
    Records travel through pinned memory; `ahead` + 1 sets of it are used in turn.
    """

    def __init__(self, slots: Slots, steps: int, ahead: int) -> None:
        self.slots, self.ahead = slots, ahead
        count, device = len(slots.alive), slots.alive.device
        self.on_gpu, self.launches = device.type == "cuda", 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.records = [
            torch.zeros(steps, 3, count, dtype=torch.int32, device=device),
            torch.zeros(steps, count, dtype=torch.float64, device=device),
        ]
        self.host = [
            [torch.zeros(r.shape, dtype=r.dtype, pin_memory=self.on_gpu) for r in self.records]
            for _ in range(ahead + 1)
        ]

    @torch.inference_mode()
    def prepare(self) -> None:
        """Capture the graph on a GPU. All slots must be empty: the steps run and write into the
        caches."""
        if self.on_gpu and self.graph is None:
            self.graph = self._capture()

    def launch(self) -> InFlightSteps:
        host = self.host[self.launches % len(self.host)]
        self.launches += 1
        if self.graph is None:
            self.run()
        else:
            self.graph.replay()
        for source, target in zip(self.records, host, strict=True):
            target.copy_(source, non_blocking=True)
        event = torch.cuda.Event(blocking=True) if self.on_gpu else None
        if event is not None:
            event.record()
        return InFlightSteps(host, event)

    def run(self) -> None:
        for events, logprobs in zip(*self.records, strict=True):
            self.slots.step(events, logprobs)

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Run the steps once on a side stream, which compiles the kernels and initialises the
        libraries (a capture cannot hold either), then capture them."""
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            self.run()
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.run()
        return graph
