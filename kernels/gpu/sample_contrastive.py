"""Fused contrastive sampling: at most four launches, none of which waits for the host.

    1. if rows are few, for each part of a row: its maximum (sampling/rows.py)
    2. for each row: one pass over GOOD (sampling/collect.py), then scores, truncation and the draw
       (sampling/draw.py), in one launch (sampling/rows.py)
    3. for rows with more than CAPACITY plausible tokens: a pass over all of V (sampling/dense.py),
       after a product of those rows with BAD's head, if BAD has one (sampling/heads.py); programs
       of other rows exit at once
With alpha 0 only step 3 is launched, for every row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from cdgen.kernels.gpu.philox import signed_word
from cdgen.kernels.gpu.sampling.dense import finish_kernel
from cdgen.kernels.gpu.sampling.heads import head_kernel
from cdgen.kernels.gpu.sampling.rows import part_kernel, sample_kernel
from cdgen.kernels.gpu.sampling.types import (
    PENDING,
    Bad,
    Drawn,
    Lists,
    ScoreParams,
    Truncation,
)
from cdgen.kernels.sampling_params import SampleOutput, SamplingParams, fp32

# Tokens in the list of a row. The largest plausible set of 8,898 real positions had 141.
CAPACITY = 1024

# Block sizes. Chosen from the compiled code (docs/kernels.md), not yet by timing: 16-byte loads, no
# spills, and 768 threads or more on a multiprocessor, 640 for the dense kernel.
BLOCK, GATHER = 2048, 512  # logits per tile of GOOD; per tile of plausible lanes
LIST_SIZES = {"num_warps": 8, "maxnreg": 64}
LONG_LIST_SIZES = {"num_warps": 8, "maxnreg": 80}  # with truncation, or a head
LANES, HEAD_LANES = 128, 16  # list entries at a time; with a head, each is a dot product
DENSE_SIZES = {"BLOCK": 1024, "TALLY_BLOCK": 128, "num_warps": 4, "maxnreg": 96}
LONG_DENSE_SIZES = {"BLOCK": 2048, "TALLY_BLOCK": 256, "num_warps": 8, "maxnreg": 128}  # it sorts
SORTED = 1024  # tokens that a row of the dense kernel can list for truncation
HEAD_SIZES = {  # by bytes per number
    2: {"ROWS": 64, "TOKENS": 64, "BLOCK_D": 64, "num_warps": 8, "maxnreg": 128},
    4: {"ROWS": 32, "TOKENS": 64, "BLOCK_D": 32, "num_warps": 4},
}
HEAD_PROGRAMS = 512
PROGRAMS = 256  # rows are split into parts until there are this many programs
MAX_SPLITS = 32

# The reference rounds each product before the difference.
EXACT = {"enable_fp_fusion": False}


def splits_of(rows: int, vocab: int) -> int:
    """Return the number of parts of a row: a power of two, each part at least a tile."""
    splits = 1
    while rows * splits < PROGRAMS and splits < MAX_SPLITS and vocab >= 2 * splits * BLOCK:
        splits *= 2
    return splits


def mass_units(vocab: int) -> float:
    """Return the units per 1 of mass, such that a whole row has at most 2**62 units."""
    return 2.0 ** (62 - (vocab - 1).bit_length())


class DrawInputs(NamedTuple):
    """Everything that one call draws from, and the tensors that it writes."""

    good: torch.Tensor  # [B, V]
    bad: Bad
    params: ScoreParams
    truncation: Truncation
    sequence_ids: torch.Tensor  # [B] int64
    positions: torch.Tensor  # [B]
    seed: int  # as an int64
    vocab: int
    drawn: Drawn

    @property
    def truncates(self) -> bool:
        top_k, top_p = self.truncation
        return top_k > 0 or top_p < 1 or self.params.log_min_p > -torch.inf

    @property
    def noise(self) -> tuple[torch.Tensor, torch.Tensor, int, int]:
        """The kernels' arguments for Philox."""
        low, high = signed_word(self.seed), signed_word(self.seed >> 32)
        return self.sequence_ids, self.positions, low, high

    def scratch(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:  # [B, *shape]
        return torch.empty(len(self.good), *shape, dtype=dtype, device=self.good.device)


@torch.library.custom_op("cdgen::sample_contrastive", mutates_args=())
def sample_contrastive_op(
    good: torch.Tensor,
    bad: torch.Tensor | None,
    hidden: torch.Tensor | None,
    head: torch.Tensor | None,
    bias: torch.Tensor | None,
    score_params: list[float],  # the fields of a `ScoreParams`
    top_k: int,
    top_p: float,
    seed: int,  # as an int64
    sequence_ids: torch.Tensor,
    positions: torch.Tensor,
    vocab: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    x = DrawInputs(
        good,
        _bad(bad, hidden, head, bias),
        ScoreParams(*score_params),
        Truncation(top_k, top_p),
        sequence_ids,
        positions,
        seed,
        vocab,
        Drawn(*_outputs(good)),
    )
    row_max = None
    with torch.cuda.device_of(good):  # Triton launches on the current device
        if x.params.log_alpha > -torch.inf or vocab <= CAPACITY:
            row_max = x.scratch(torch.float32)
            _draw_from_lists(x, row_max)
        if vocab > CAPACITY:
            _finish(x, row_max)
    return tuple(x.drawn)


@sample_contrastive_op.register_fake
def _(good, *_args):
    return _outputs(good)


def _outputs(good: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, device = len(good), good.device
    return (
        torch.empty(rows, dtype=torch.int64, device=device),
        torch.empty(rows, dtype=torch.uint8, device=device),
        torch.empty(rows, dtype=torch.int32, device=device),
        torch.empty(rows, dtype=torch.int32, device=device),
    )


def _bad(
    logits: torch.Tensor | None,
    hidden: torch.Tensor | None,
    head: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> Bad:
    if logits is not None:
        return Bad(logits=logits, logits_stride=logits.stride(0))
    if hidden is None or head is None:
        return Bad()
    return Bad(
        hidden=hidden,
        hidden_stride=hidden.stride(0),
        head=head,
        head_stride=head.stride(0),
        bias=bias,
        width=head.shape[1],
    )


def _draw_from_lists(
    x: DrawInputs,
    row_max: torch.Tensor,  # [B] float32, written for rows that are left pending
) -> None:
    rows, head = len(x.good), x.bad.head
    splits, part_max = splits_of(rows, x.vocab), None
    if splits > 1:
        part_max = x.scratch(torch.float32, splits)
        part_kernel[(rows, splits)](
            x.good,
            x.good.stride(0),
            x.vocab,
            part_max,
            SPLITS=splits,
            BLOCK=BLOCK,
            **LIST_SIZES,
        )
    lists = Lists(
        tokens=x.scratch(torch.int32, CAPACITY),
        scores=x.scratch(torch.float32, CAPACITY) if x.truncates else None,
        groups=x.scratch(torch.int32, BLOCK // 4) if splits == 1 else None,
    )
    sample_kernel[(rows,)](
        x.good,
        x.good.stride(0),
        x.vocab,
        x.bad,
        x.params,
        *x.truncation,
        *x.noise,
        lists,
        row_max,
        x.drawn,
        part_max,
        SPLITS=splits,
        TRUNCATE=x.truncates,
        CAPACITY=CAPACITY,
        BLOCK=BLOCK,
        GATHER=GATHER,
        LANES=LANES if head is None else HEAD_LANES,
        BLOCK_D=128 if head is not None and head.element_size() == 2 else 64,
        **(LIST_SIZES if head is None and not x.truncates else LONG_LIST_SIZES),
        **EXACT,
    )


def _finish(
    x: DrawInputs,
    row_max: torch.Tensor | None,  # [B] float32; None: every row is pending
) -> None:
    rows, bad = len(x.good), x.bad
    if bad.head is not None:
        # Only pending rows are written, but any row may be pending, so all need memory.
        logits = x.scratch(torch.float32, x.vocab)
        head_kernel[(HEAD_PROGRAMS,)](
            bad,
            rows,
            x.vocab,
            None if row_max is None else x.drawn.status,
            PENDING.value,
            logits,
            **HEAD_SIZES[bad.head.element_size()],
        )
        bad = Bad(logits=logits, logits_stride=x.vocab)
    lists = None
    if x.truncates:
        lists = Lists(x.scratch(torch.int32, SORTED), x.scratch(torch.float32, SORTED))
    columns = x.good.shape[1]
    if bad.logits is not None:
        columns = min(columns, bad.logits.shape[1])
    finish_kernel[(rows,)](
        x.good,
        x.good.stride(0),
        x.vocab,
        min(columns, -(-x.vocab // 16) * 16),
        bad,
        x.params,
        *x.truncation,
        *x.noise,
        row_max,
        lists,
        x.drawn,
        SORTED=SORTED,
        DIVIDE=x.params.temperature not in (0, 1),
        TRUNCATE=x.truncates,
        **(LONG_DENSE_SIZES if x.truncates else DENSE_SIZES),
        **EXACT,
    )


def sample_contrastive(
    good: torch.Tensor,
    bad: torch.Tensor | None,
    hidden: torch.Tensor | None,
    head: torch.Tensor | None,
    bias: torch.Tensor | None,
    params: SamplingParams,
    seed: int,
    sequence_ids: torch.Tensor,
    positions: torch.Tensor,
    vocab: int,
) -> SampleOutput:
    """Draw with the Triton kernels. Both public ops call this with arguments they have checked."""
    score_params = ScoreParams(
        good_weight=params.good_weight,
        bad_weight=params.bad_weight,
        temperature=params.temperature,
        log_alpha=params.log_alpha,
        log_min_p=params.log_min_p,
        mass_units=mass_units(vocab),
    )
    return SampleOutput(
        *sample_contrastive_op(
            good,
            bad,
            hidden,
            head,
            bias,
            [fp32(x) for x in score_params],
            params.top_k,
            params.top_p,
            seed - (seed >> 63 << 64),
            sequence_ids.contiguous(),
            positions.contiguous(),
            vocab,
        )
    )


def sample_contrastive_bytes(
    rows: int,
    vocab: int,
    itemsize: int,  # of a logit
    plausible: int,  # summed over rows
    *,
    dense: bool = False,
    width: int = 0,  # of BAD's head, if it is given instead of logits
    head_itemsize: int = 2,
) -> int:
    """Return the bytes that a draw must move: GOOD's logits once; for each plausible token a
    32-byte sector of BAD's logits, or its row of the head, or (dense) all of BAD's logits once;
    coordinates in and draws out. Lists are small and stay in cache, so they are not counted."""
    good = rows * vocab * itemsize
    bad = good if dense else plausible * (width * head_itemsize if width else 32)
    return good + bad + rows * (8 + 8 + 8 + 1 + 4 + 4)
