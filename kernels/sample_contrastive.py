"""One contrastive draw per row, with BAD's logits given or computed for plausible tokens only."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch

from cdgen.kernels import reference
from cdgen.kernels.dispatch import Backend, choose_backend, native, threads
from cdgen.kernels.sampling_params import SampleOutput, SamplingParams, fp32

_DTYPE_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


class _Args(NamedTuple):
    """Checked arguments of one draw per row, in the order that the Triton backend takes them.

    BAD is its logits, or hidden states and head, or, if its weight is 0, none of them.
    """

    good: torch.Tensor
    bad: torch.Tensor | None
    hidden: torch.Tensor | None
    head: torch.Tensor | None
    bias: torch.Tensor | None
    params: SamplingParams
    seed: int
    sequence_ids: torch.Tensor
    positions: torch.Tensor
    vocab_size: int


def sample_contrastive(
    good: torch.Tensor,  # [B, V] float32 | bfloat16 | float16, any row stride
    bad: torch.Tensor | None,  # like good, [B, vocab_size or more]; None when bad_weight == 0
    params: SamplingParams,
    *,
    seed: int,
    sequence_ids: torch.Tensor,  # [B] int64
    positions: torch.Tensor,  # [B] int32 | int64
    vocab_size: int | None = None,
    backend: str | None = None,
) -> SampleOutput:
    """Draw argmax(score + Gumbel noise) over the plausible tokens that truncation keeps.

    The scores are those of Li et al. 2023 (arXiv 2210.15097) and O'Brien and Lewis 2023
    (arXiv 2309.09117); see `SamplingParams`. `seed` has 64 bits; `positions` holds the index of the
    drawn token in its sequence. The noise depends on (seed, sequence id, position, token id) alone,
    so a row's token does not change with its neighbours, its place in the batch or the backend's
    blocking. Columns from `vocab_size` on are padding and never drawn. A row that cannot be sampled
    has token -1 and says why in its `RowStatus`. Raises ValueError on arguments that do not fit.

    `backend` None is chosen by device, or is the reference if `params.masked_score` is set.
    """
    vocab = _check_good(good, seed, sequence_ids, positions, vocab_size)
    if fp32(params.bad_weight) == 0:
        bad = None
    else:
        _check_bad(bad, good, params, vocab)
    chosen = sampling_backend(good.device, params, backend)
    if chosen == "reference":
        return reference.sample_contrastive(good, bad, params, seed, sequence_ids, positions, vocab)
    draw = _triton if chosen == "triton" else _native
    return draw(_Args(good, bad, None, None, None, params, seed, sequence_ids, positions, vocab))


def sample_contrastive_heads(
    good: torch.Tensor,  # [B, V] float32 | bfloat16 | float16, any row stride
    bad_hidden: torch.Tensor,  # [B, D] float32 | bfloat16 | float16
    bad_head: torch.Tensor,  # [V, D], like bad_hidden
    params: SamplingParams,
    *,
    seed: int,
    sequence_ids: torch.Tensor,  # [B] int64
    positions: torch.Tensor,  # [B] int32 | int64
    bad_bias: torch.Tensor | None = None,  # [V], like bad_hidden
    vocab_size: int | None = None,
    backend: str | None = None,
) -> SampleOutput:
    """Draw as `sample_contrastive` does with bad = bad_hidden @ bad_head.T + bad_bias in fp32.

    BAD's logits are never written: the plausible set depends on GOOD alone, so only the few dot
    products of its tokens are computed. Raises ValueError on arguments that do not fit.
    """
    vocab = _check_good(good, seed, sequence_ids, positions, vocab_size)
    _check_heads(good, bad_hidden, bad_head, bad_bias, vocab)
    chosen = sampling_backend(good.device, params, backend)
    if chosen == "reference":
        bias = None if bad_bias is None else bad_bias[:vocab]
        bad = reference.linear(bad_hidden, bad_head[:vocab], bias)
        return reference.sample_contrastive(good, bad, params, seed, sequence_ids, positions, vocab)
    head = bad_head if fp32(params.bad_weight) else None
    args = _Args(
        good, None, bad_hidden, head, bad_bias, params, seed, sequence_ids, positions, vocab
    )
    return _triton(args) if chosen == "triton" else _native(args)


def sampling_backend(
    device: torch.device, params: SamplingParams, backend: str | None = None
) -> Backend:
    """Return the backend that draws by `params`. Raises ValueError if the one named cannot."""
    if params.masked_score is None:
        return choose_backend(device, backend)
    if backend not in (None, "reference"):
        raise ValueError(f"backend: expected 'reference' with a masked_score, got {backend!r}")
    return "reference"


def _triton(args: _Args) -> SampleOutput:
    from cdgen.kernels.gpu.sample_contrastive import sample_contrastive  # only now imports triton

    return sample_contrastive(*args)


def _native(args: _Args) -> SampleOutput:
    rows = args.good.shape[0]
    # These names keep a converted copy alive until the kernel has read it.
    ids, positions = args.sequence_ids.contiguous(), args.positions.long().contiguous()
    out = SampleOutput(
        tokens=torch.empty_like(ids),
        status=torch.empty(rows, dtype=torch.uint8),
        plausible=torch.empty(rows, dtype=torch.int32),
        kept=torch.empty(rows, dtype=torch.int32),
    )
    native.sample_contrastive(
        _matrix(args.good),
        rows,
        args.vocab_size,
        None if args.bad is None else _matrix(args.bad),
        _native_head(args.hidden, args.head, args.bias),
        _native_params(args.params),
        native.Noise(args.seed, ids.data_ptr(), positions.data_ptr()),
        native.Draws(
            out.tokens.data_ptr(),
            out.status.data_ptr(),
            out.plausible.data_ptr(),
            out.kept.data_ptr(),
        ),
        threads(),
    )
    return out


def _matrix(x: torch.Tensor) -> Any:
    return native.Matrix(x.data_ptr(), x.stride(0), _DTYPE_NAMES[x.dtype])


def _native_head(
    hidden: torch.Tensor | None, head: torch.Tensor | None, bias: torch.Tensor | None
) -> Any:
    if hidden is None or head is None:
        return None
    bias_address = 0 if bias is None else bias.data_ptr()
    return native.Head(_matrix(hidden), _matrix(head), bias_address, head.shape[1])


@lru_cache(maxsize=16)
def _native_params(params: SamplingParams) -> Any:
    return native.Params(
        params.good_weight,
        params.bad_weight,
        params.log_alpha,
        params.temperature,
        params.log_min_p,
        params.top_k,
        params.top_p,
    )


def _check_good(
    good: torch.Tensor,
    seed: int,
    sequence_ids: torch.Tensor,
    positions: torch.Tensor,
    vocab_size: int | None,
) -> int:
    if good.dim() != 2 or good.dtype not in _DTYPE_NAMES or 0 in good.shape:
        raise ValueError(
            f"good: expected non-empty [B, V] float32, bfloat16 or float16,"
            f" got {tuple(good.shape)} {good.dtype}"
        )
    rows, columns = good.shape
    if columns > 1 and good.stride(1) != 1:
        raise ValueError(f"good: expected columns side by side, got strides {good.stride()}")
    _check_per_row("sequence_ids", sequence_ids, rows, good.device, (torch.int64,))
    _check_per_row("positions", positions, rows, good.device, (torch.int32, torch.int64))
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: expected 64 bits, 0 <= seed < 2**64, got {seed}")
    vocab = columns if vocab_size is None else vocab_size
    if not 1 <= vocab <= columns:
        raise ValueError(f"vocab_size: expected 1 to {columns} (good's width), got {vocab}")
    return vocab


def _check_per_row(
    name: str, x: torch.Tensor, rows: int, device: torch.device, dtypes: tuple[torch.dtype, ...]
) -> None:
    if x.dtype in dtypes and x.shape == (rows,) and x.device == device:
        return
    raise ValueError(
        f"{name}: expected [{rows}] {' or '.join(map(str, dtypes))} on {device},"
        f" got {list(x.shape)} {x.dtype} on {x.device}"
    )


def _check_bad(
    bad: torch.Tensor | None, good: torch.Tensor, params: SamplingParams, vocab: int
) -> None:
    if bad is None:
        raise ValueError(f"bad: expected logits, got None with bad_weight {params.bad_weight}")
    _check_like_good("bad", bad, good)
    fits = bad.dim() == 2 and len(bad) == len(good) and bad.shape[1] >= vocab
    if not fits or bad.dtype != good.dtype:
        raise ValueError(
            f"bad: expected [{len(good)}, {vocab} or more] {good.dtype} as good,"
            f" got {tuple(bad.shape)} {bad.dtype}"
        )


def _check_like_good(name: str, x: torch.Tensor, good: torch.Tensor) -> None:
    if x.device != good.device:
        raise ValueError(f"{name}: expected a tensor on {good.device}, got {x.device}")
    if x.dtype not in _DTYPE_NAMES:
        raise ValueError(f"{name}: expected float32, bfloat16 or float16, got {x.dtype}")
    if x.shape[-1] > 1 and x.stride(-1) != 1:
        raise ValueError(f"{name}: expected columns side by side, got strides {x.stride()}")


def _check_heads(
    good: torch.Tensor,
    hidden: torch.Tensor,
    head: torch.Tensor,
    bias: torch.Tensor | None,
    vocab: int,
) -> None:
    for name, x in (("bad_hidden", hidden), ("bad_head", head)):
        _check_like_good(name, x, good)
        if x.dim() != 2:
            raise ValueError(f"{name}: expected two dimensions, got {tuple(x.shape)}")
    (rows, width), (head_rows, head_width) = hidden.shape, head.shape
    if rows != good.shape[0]:
        raise ValueError(f"bad_hidden: expected {len(good)} rows as good, got {rows}")
    if head_rows < vocab or head_width != width or head.dtype != hidden.dtype:
        raise ValueError(
            f"bad_head: expected at least [{vocab}, {width}] {hidden.dtype},"
            f" got {tuple(head.shape)} {head.dtype}"
        )
    if bias is not None:
        _check_like_good("bad_bias", bias, good)
        if bias.dim() != 1 or len(bias) < vocab or bias.dtype != head.dtype:
            raise ValueError(
                f"bad_bias: expected at least [{vocab}] {head.dtype},"
                f" got {tuple(bias.shape)} {bias.dtype}"
            )
