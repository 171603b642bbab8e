"""Fused contrastive sampling: at most four launches, none of which waits for the host.

    1. where rows are few, per part of a row: its maximum
    2. per row: one pass over GOOD (`sampling_collect`), then scores, truncation and the draw
       (`sampling_draw`), in one launch (`sampling_rows`)
    3. rows with more than CAPACITY plausible tokens: all of V (`sampling_dense`), after a product
       of those rows with BAD's head (`sampling_heads`) if that is what is given; programs of other
       rows exit at once
Where alpha is 0 every row is one for 3, which is then all that is launched.
"""

from __future__ import annotations

import torch

from cdgen.kernels.gpu.philox import signed_word
from cdgen.kernels.gpu.sampling.dense import finish_kernel
from cdgen.kernels.gpu.sampling.draw import PENDING, Drawn, Lists, Rule
from cdgen.kernels.gpu.sampling.heads import Bad, head_kernel
from cdgen.kernels.gpu.sampling.rows import part_kernel, sample_kernel
from cdgen.kernels.sampling_params import SampleOutput, SamplingParams, fp32

# Tokens that a row's list holds. The largest plausible set of 8,898 real positions had 141.
CAPACITY = 1024

# Block sizes. Chosen from the compiled code (docs/kernels.md), not yet by timing: 16-byte loads, no
# spills, and 768 threads or more on a multiprocessor, 640 for the dense kernel.
BLOCK, GATHER = 2048, 512  # logits per tile of GOOD; per look at plausible lanes
LIST_SIZES = {"num_warps": 8, "maxnreg": 64}
LONG_LIST_SIZES = {"num_warps": 8, "maxnreg": 80}  # with truncation, or a head
LANES, HEAD_LANES = 128, 16  # list entries at a time; with a head, so many dot products
DENSE_SIZES = {"BLOCK": 1024, "TALLY_BLOCK": 256, "num_warps": 4, "maxnreg": 96}
HEAD_SIZES = {  # by bytes per number
    2: {"ROWS": 64, "TOKENS": 64, "BLOCK_D": 64, "num_warps": 8, "maxnreg": 128},
    4: {"ROWS": 32, "TOKENS": 64, "BLOCK_D": 32, "num_warps": 4},
}
HEAD_PROGRAMS = 512
PROGRAMS = 256  # rows are split into parts while there are fewer programs than this
MAX_SPLITS = 32

# The reference rounds each product before the difference.
EXACT = {"enable_fp_fusion": False}


def splits_of(rows: int, vocab: int) -> int:
    """Into how many parts a row is split: a power of two, each part at least a tile."""
    splits = 1
    while rows * splits < PROGRAMS and splits < MAX_SPLITS and vocab >= 2 * splits * BLOCK:
        splits *= 2
    return splits


def mass_units(vocab: int) -> float:
    """Units per 1 of mass, so many that those of a whole row are 2**62 at most."""
    return 2.0 ** (62 - (vocab - 1).bit_length())


@torch.library.custom_op("cdgen::sample_contrastive", mutates_args=())
def sample_contrastive_op(
    good: torch.Tensor,
    bad: torch.Tensor | None,
    hidden: torch.Tensor | None,
    head: torch.Tensor | None,
    bias: torch.Tensor | None,
    rule: list[float],  # the numbers of a `Rule`
    top_k: int,
    top_p: float,
    seed: int,  # as an int64
    sequence_ids: torch.Tensor,
    positions: torch.Tensor,
    vocab: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    numbers = Rule(*rule)
    drawn = Drawn(*_outputs(good))
    noise = (sequence_ids, positions, signed_word(seed), signed_word(seed >> 32))
    truncate = top_k > 0 or top_p < 1 or numbers.log_min_p > -torch.inf
    source = _bad(bad, hidden, head, bias)
    tops = None
    with torch.cuda.device_of(good):  # Triton launches on the current device
        if numbers.log_alpha > -torch.inf or vocab <= CAPACITY:
            tops = torch.empty(len(good), dtype=torch.float32, device=good.device)
            _draw_from_lists(
                good, source, numbers, top_k, top_p, noise, vocab, truncate, tops, drawn
            )
        if vocab > CAPACITY:
            _finish(good, source, numbers, top_k, top_p, noise, vocab, truncate, tops, drawn)
    return tuple(drawn)


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
        hidden=hidden, hidden_stride=hidden.stride(0), head=head, head_stride=head.stride(0),
        bias=bias, width=head.shape[1],
    )  # fmt: skip


def _draw_from_lists(
    good: torch.Tensor,
    bad: Bad,
    rule: Rule,
    top_k: int,
    top_p: float,
    noise: tuple,
    vocab: int,
    truncate: bool,
    tops: torch.Tensor,
    drawn: Drawn,
) -> None:
    rows = len(good)

    def scratch(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return torch.empty(rows, *shape, dtype=dtype, device=good.device)

    splits, part_tops = splits_of(rows, vocab), None
    if splits > 1:
        part_tops = scratch(torch.float32, splits)
        part_kernel[(rows, splits)](
            good, good.stride(0), vocab, part_tops, SPLITS=splits, BLOCK=BLOCK, **LIST_SIZES
        )
    lists = Lists(
        tokens=scratch(torch.int32, CAPACITY),
        scores=scratch(torch.float32, CAPACITY) if truncate else None,
        groups=scratch(torch.int32, BLOCK // 4) if splits == 1 else None,
    )
    sample_kernel[(rows,)](
        good, good.stride(0), vocab, bad, rule, top_k, top_p, *noise, lists, tops, drawn, part_tops,
        SPLITS=splits, TRUNCATE=truncate, CAPACITY=CAPACITY, BLOCK=BLOCK, GATHER=GATHER,
        LANES=LANES if bad.head is None else HEAD_LANES,
        BLOCK_D=128 if bad.head is not None and bad.head.element_size() == 2 else 64,
        **(LIST_SIZES if bad.head is None and not truncate else LONG_LIST_SIZES), **EXACT,
    )  # fmt: skip


def _finish(
    good: torch.Tensor,
    bad: Bad,
    rule: Rule,
    top_k: int,
    top_p: float,
    noise: tuple,
    vocab: int,
    truncate: bool,
    tops: torch.Tensor | None,
    drawn: Drawn,
) -> None:
    rows = len(good)
    if bad.head is not None:
        # Only pending rows are written; but for every row there must be room.
        logits = torch.empty(rows, vocab, dtype=torch.float32, device=good.device)
        head_kernel[(HEAD_PROGRAMS,)](
            bad, rows, vocab, None if tops is None else drawn.status, PENDING.value, logits,
            **HEAD_SIZES[bad.head.element_size()],
        )  # fmt: skip
        bad = Bad(logits=logits, logits_stride=vocab)
    columns = good.shape[1] if bad.logits is None else min(good.shape[1], bad.logits.shape[1])
    finish_kernel[(rows,)](
        good, good.stride(0), vocab, min(columns, -(-vocab // 16) * 16), bad, rule, top_k, top_p,
        *noise, tops, drawn, DIVIDE=rule.temperature not in (0, 1), TRUNCATE=truncate,
        **DENSE_SIZES, **EXACT,
    )  # fmt: skip


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
    """The Triton backend of both public ops; arguments as they have checked them."""
    rule = [
        fp32(x)
        for x in (params.good_weight, params.bad_weight, params.temperature, params.log_alpha,
                  params.log_min_p, mass_units(vocab))
    ]  # fmt: skip
    return SampleOutput(
        *sample_contrastive_op(
            good, bad, hidden, head, bias, rule, params.top_k, params.top_p,
            seed - (seed >> 63 << 64), sequence_ids.contiguous(), positions.contiguous(), vocab,
        )
    )  # fmt: skip


def sample_contrastive_bytes(
    rows: int,
    vocab: int,
    itemsize: int,  # of a logit
    plausible: int,  # summed over rows
    *,
    dense: bool = False,
    width: int = 0,  # of BAD's head, where that is given instead of logits
    head_itemsize: int = 2,
) -> int:
    """Bytes that a draw must move: GOOD's logits once; of BAD one 32-byte sector per plausible
    token, or its row of the head, or (dense) all logits once; coordinates in and draws out. Lists
    are small and stay in cache: they are not counted."""
    good = rows * vocab * itemsize
    bad = good if dense else plausible * (width * head_itemsize if width else 32)
    return good + bad + rows * (8 + 8 + 8 + 1 + 4 + 4)
