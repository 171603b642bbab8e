"""The slot engine: a fixed number of rows in lockstep, each refilled as soon as it finishes.

The device steps (slots.py, graph_runner.py); the host hands out requests and collects the drawn
tokens (buffers.py). On a GPU the host works one launch behind, so that the device never waits for
it. The tokens of a sequence depend on (seed, sequence id, prompt) only: not on its slot, on its
neighbours, or on when it was admitted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from cdgen.engine.buffers import SequenceBuffer, to_device
from cdgen.engine.graph_runner import STEPS, GraphRunner, InFlightSteps, Records
from cdgen.engine.paired import PairedModels
from cdgen.engine.sequences import Request, Sequence, StepReport
from cdgen.engine.settings import EngineSettings
from cdgen.engine.slots import Slots, padded_prompts
from cdgen.finish_reason import FinishReason
from cdgen.kernels.slot_event import SlotEvent
from cdgen.models.decoder import Decoder
from cdgen.models.prefill import prefill

_REASONS: dict[int, FinishReason] = {
    SlotEvent.EOS: "eos",
    SlotEvent.LENGTH: "length",
    SlotEvent.QUARANTINED: "quarantined",
}
# Prompts of PREFILL_FROM tokens and more go through the models in batches on a GPU, always of
# PREFILL_ROWS, so that their bits do not depend on how many slots happened to be free. Shorter ones
# ride the ordinary steps: a batch costs about 470 launches (12 layers), and slots stand empty while
# they wait for it to fill up.
PREFILL_FROM, PREFILL_ROWS = 64, 64


def uses_prefill(prompt_capacity: int, device_type: str) -> bool:
    """Return whether prompts of up to `prompt_capacity` tokens are prefilled in batches."""
    return device_type == "cuda" and prompt_capacity >= PREFILL_FROM


@dataclass
class SlotEngine:
    """GOOD and BAD decoders that step together.

    `bad` is None if there is no BAD, or if both models are stacked in one decoder.
    """

    good: Decoder
    bad: Decoder | None
    settings: EngineSettings
    on_step: Callable[[StepReport], None] = field(default=lambda report: None)
    steps: int | None = None  # per launch; None: 1 on a CPU, STEPS on a GPU
    ahead: int | None = None  # launches that the host has not read; None: 0 on a CPU, 1 on a GPU
    prefills: bool | None = None  # prompts in batches of their own; None: as `uses_prefill` says

    def __post_init__(self) -> None:
        device_type = self.good.device.type
        on_gpu = device_type == "cuda"
        prompt_capacity = self.good.capacity - self.settings.limits.max_new_tokens
        models = PairedModels(self.good, self.bad, self.settings)
        self.slots = Slots(models, prompt_capacity)
        ahead = int(on_gpu) if self.ahead is None else self.ahead
        self.runner = GraphRunner(self.slots, self.steps or (STEPS if on_gpu else 1), ahead)
        if self.prefills is None:
            self.prefills = uses_prefill(prompt_capacity, device_type)
        self.rows: list[Request | None] = [None] * self.good.slots
        self.prepared = False
        self.buffer = SequenceBuffer(self.good.slots, self.good.capacity)

    @property
    def is_tiny(self) -> bool:
        """Whether a product of [slots, D] x [D, D] is too small to share between threads: below a
        million multiply-adds, ten microseconds, waking a second thread costs more than it saves."""
        return self.good.slots * self.good.config.hidden_size**2 < 1 << 20

    @torch.inference_mode()
    def generate(self, requests: Iterable[Request]) -> Iterator[Sequence]:
        """Yield sequences in the order in which they finish. Only one call may run at a time."""
        waiting, finished = iter(requests), deque[Sequence]()
        self.rows = [None] * self.good.slots
        self.slots.clear()  # an earlier call may have been abandoned half-way
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
            # The caller needs time for each sequence. Hand them over while the GPU is busy.
            while finished and (
                not launched or len(finished) > len(self.rows) or not launched[0].is_done()
            ):
                yield finished.popleft()
        yield from finished

    def prepare(self) -> None:
        """Allocate and compile, once, all that a run needs beyond the decoders, so that a lack of
        memory shows before the run. No slot may hold a sequence."""
        if self.prepared:
            return
        if self.prefills:
            self.prefill_prompts([0] * PREFILL_ROWS, [Request(0, [0])] * PREFILL_ROWS)
        self.runner.prepare()
        self.prepared = True

    @torch.inference_mode()
    def prefill_prompts(self, rows: list[int], requests: list[Request]) -> None:
        """Write all prompt tokens but the last into the caches, in batches of one shape; a batch
        that is not full repeats its last row."""
        prompts = padded_prompts(requests, self.slots.prompts.shape[1])[:, :-1]
        if prompts.shape[1] == 0:
            return
        inputs = (
            torch.tensor(rows),
            prompts,
            torch.tensor([len(request.prompt) - 1 for request in requests]),
            torch.tensor([request.sequence_id for request in requests]),
        )
        decoders = (self.good, self.bad) if self.bad else (self.good,)
        for start in range(0, len(rows), PREFILL_ROWS):
            batch = torch.arange(start, start + PREFILL_ROWS).clamp(max=len(rows) - 1)
            for decoder in decoders:
                prefill(decoder, *(to_device(x[batch], decoder.device) for x in inputs))

    # ---- admitting -----------------------------------------------------------------------------

    def _refill(self, waiting: Iterator[Request]) -> None:
        """Put the next requests into the free slots. If prompts are prefilled, wait until a batch
        is full or nothing else is left to do."""
        wanted = min(PREFILL_ROWS, len(self.rows)) if self.prefills else 1
        if self.rows.count(None) < wanted:
            return
        rows, requests = [], []
        for row, current in enumerate(self.rows):
            if current is None:
                if (request := next(waiting, None)) is None:
                    break
                self.rows[row] = request
                self.buffer.start(row, request.prompt)
                rows.append(row)
                requests.append(request)
        if requests:
            self.slots.admit(rows, requests, prefilled=bool(self.prefills))
            if self.prefills:
                self.prefill_prompts(rows, requests)

    # ---- reading -------------------------------------------------------------------------------

    def _read(self, records: Records) -> list[Sequence]:
        """Collect the drawn tokens; return the sequences that ended and free their slots."""
        finished = []
        for (event, token, plausible), logprob in zip(*records, strict=True):
            drawn = np.flatnonzero((event != SlotEvent.NOTHING) & (event != SlotEvent.QUARANTINED))
            self.buffer.append(drawn, token[drawn], plausible[drawn], logprob[drawn])
            for row in np.flatnonzero(event > SlotEvent.DRAWN).tolist():
                request = self.rows[row]
                assert request is not None
                reason = _REASONS[event[row]]
                logprobs = self.settings.logprobs
                finished.append(self.buffer.sequence(row, request, reason, logprobs))
                self.rows[row] = None
            self.on_step(StepReport(len(drawn), int(plausible[drawn].sum())))
        return finished
