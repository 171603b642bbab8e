"""The slot engine: a fixed number of rows in lockstep, each refilled as soon as it finishes.

The device steps (slots.py, graph_runner.py); the host hands out requests and puts the drawn tokens
together. On a GPU it does so one launch behind, so that the device never waits for it. A
sequence's tokens depend on (seed, sequence id, prompt) alone: not on its slot, its neighbours, or
when it was admitted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from cdgen.engine.buffers import SequenceBuffer, to_device
from cdgen.engine.graph_runner import STEPS, GraphRunner, InFlightSteps, Records
from cdgen.engine.paired import Draw
from cdgen.engine.sequences import FinishReason, Limits, Request, Sequence, StepReport
from cdgen.engine.slots import Event, Slots
from cdgen.kernels.sampling_params import SamplingParams
from cdgen.models.decoder import Decoder
from cdgen.models.prefill import prefill

_REASONS: dict[int, FinishReason] = {
    Event.EOS: "eos",
    Event.LENGTH: "length",
    Event.QUARANTINED: "quarantined",
}
# Prompts go through the models together from this length on, and always as many of them: so their
# bits do not depend on how many slots happened to be free. Shorter ones ride the ordinary steps: a
# batch costs about 470 launches (12 layers), and slots that wait for it to fill up stand empty.
PREFILL_FROM, PREFILL_ROWS = 64, 64


@dataclass
class SlotEngine:
    """GOOD and BAD decoders of `slots` rows each; BAD None where bad_weight is 0, or where both are
    stacked in one decoder. `steps` at a time, with `ahead` launches that the host has not read."""

    good: Decoder
    bad: Decoder | None
    params: SamplingParams
    limits: Limits
    seed: int
    vocab_size: int
    logprobs: bool = False
    on_step: Callable[[StepReport], None] = field(default=lambda report: None)
    steps: int | None = None  # None: 1 on a CPU, STEPS on a GPU
    ahead: int | None = None  # None: 0 on a CPU, 1 on a GPU
    prefills: bool | None = None  # prompts in batches, beforehand; None: long ones on a GPU

    def __post_init__(self) -> None:
        on_gpu, slots = self.good.device.type == "cuda", self.good.slots
        draw = Draw(self.good, self.bad, self.params, self.seed, self.vocab_size)
        room = self.good.capacity - self.limits.max_new_tokens  # for a prompt
        self.slots = Slots(draw, self.limits, room, self.logprobs)
        ahead = int(on_gpu) if self.ahead is None else self.ahead
        self.runner = GraphRunner(self.slots, self.steps or (STEPS if on_gpu else 1), ahead)
        if self.prefills is None:
            self.prefills = on_gpu and room >= PREFILL_FROM
        self.rows: list[Request | None] = [None] * slots
        self.prepared = False
        self.written = SequenceBuffer(slots, self.good.capacity)

    @property
    def is_tiny(self) -> bool:
        """Whether a product of [slots, width] x [width, width] is too short to share: under a
        million multiply-adds, ten microseconds, waking a second thread costs more than it saves."""
        return self.good.slots * self.good.config.hidden_size**2 < 1 << 20

    @torch.inference_mode()
    def generate(self, requests: Iterable[Request]) -> Iterator[Sequence]:
        """Sequences in the order in which they finish. One call at a time."""
        waiting, finished = iter(requests), deque[Sequence]()
        self.rows = [None] * self.good.slots
        self.slots.alive.zero_()  # an earlier call may have been left in the middle
        self.prepare()
        launched: deque[InFlightSteps] = deque()
        while True:
            self._refill(waiting)
            busy = any(self.rows)
            if busy:
                launched.append(self.runner.launch())
            elif not launched:
                break
            if not busy or len(launched) > self.runner.ahead:
                finished += self._read(launched.popleft().result())
            # What the caller does with them takes time, which a GPU would otherwise be waited for.
            while finished and (
                not launched or len(finished) > len(self.rows) or not launched[0].is_done()
            ):
                yield finished.popleft()
        yield from finished

    def prepare(self) -> None:
        """Once: all that a run allocates and compiles beyond the decoders, so that what does not
        fit is known. To be called while no slot holds a sequence."""
        if self.prepared:
            return
        if self.prefills:
            none = torch.zeros(PREFILL_ROWS, dtype=torch.int64)
            prompts = none[:, None].repeat(1, self.slots.prompts.shape[1] - 1)
            self._prefill(none, prompts, none, none)
        self.runner.prepare()
        self.prepared = True

    # ---- admitting -----------------------------------------------------------------------------

    def _refill(self, waiting: Iterator[Request]) -> None:
        """Puts the next requests into the slots that are free; where prompts go through the models
        in batches, once a batch is full or nothing else is left to do."""
        wanted = min(PREFILL_ROWS, len(self.rows)) if self.prefills else 1
        if self.rows.count(None) < wanted:
            return
        admitted = []
        for row, current in enumerate(self.rows):
            if current is None:
                if (request := next(waiting, None)) is None:
                    break
                self.rows[row] = request
                self.written.start(row, request.prompt)
                admitted.append((row, request))
        if admitted:
            self._admit(admitted)

    def _admit(self, admitted: list[tuple[int, Request]]) -> None:
        slots, device = self.slots, self.good.device
        rows = torch.tensor([row for row, _ in admitted])
        ids = torch.tensor([request.sequence_id for _, request in admitted])
        lengths = torch.tensor([len(request.prompt) for _, request in admitted])
        prompts = torch.zeros(len(rows), slots.prompts.shape[1], dtype=torch.int64)
        for prompt, (_, request) in zip(prompts, admitted, strict=True):
            prompt[: len(request.prompt)] = torch.tensor(request.prompt)
        # A prompt that is put into the cache beforehand leaves its last token to feed.
        positions = lengths - 1 if self.prefills else torch.zeros_like(lengths)
        tokens = prompts.gather(1, positions[:, None])[:, 0]
        there = to_device(rows, device)
        slots.state[:, there] = to_device(torch.stack([tokens, positions, ids, lengths]), device)
        slots.prompts[there] = to_device(prompts, device)
        slots.alive.index_fill_(0, there, True)  # setting an item would wait for the GPU
        if self.prefills and prompts.shape[1] > 1:
            self._prefill(rows, prompts[:, :-1], lengths - 1, ids)

    @torch.inference_mode()
    def _prefill(
        self,
        rows: torch.Tensor,  # [N] int64: slots
        prompts: torch.Tensor,  # [N, P] int64
        lengths: torch.Tensor,  # [N] int64, up to P
        ids: torch.Tensor,  # [N] int64
    ) -> None:
        """In batches of one shape; what is missing is made up by repeating the last row."""
        decoders = (self.good, self.bad) if self.bad else (self.good,)
        for start in range(0, len(rows), PREFILL_ROWS):
            batch = torch.arange(start, start + PREFILL_ROWS).clamp(max=len(rows) - 1)
            inputs = (rows[batch], prompts[batch], lengths[batch], ids[batch])
            for decoder in decoders:
                prefill(decoder, *(to_device(x, self.good.device) for x in inputs))

    # ---- reading -------------------------------------------------------------------------------

    def _read(self, records: Records) -> list[Sequence]:
        """The sequences that ended in these steps; their slots are free."""
        finished = []
        for (event, token, plausible), logprob in zip(*records, strict=True):
            drawn = np.flatnonzero((event != Event.NOTHING) & (event != Event.QUARANTINED))
            self.written.append(drawn, token[drawn], plausible[drawn], logprob[drawn])
            for row in np.flatnonzero(event > Event.DRAWN).tolist():
                request = self.rows[row]
                assert request is not None
                reason = _REASONS[event[row]]
                finished.append(self.written.sequence(row, request, reason, self.logprobs))
                self.rows[row] = None
            self.on_step(StepReport(len(drawn), int(plausible[drawn].sum())))
        return finished
