"""The definition of every op in eager PyTorch: each backend must compute what these functions do.

Arithmetic on logits and scores is fp32 whatever their dtype; sums of probabilities are fp64 in one
fixed order, so that the cut of top-p does not depend on how a row is split. Tests and benchmarks
import these functions; nothing here is tuned.

The sampling law is that of Li et al. 2023 (arXiv 2210.15097), section 3.3: with GOOD's logits g and
BAD's logits b of one row, the plausible set is { v : g_v >= max g + ln(alpha) }, and a plausible
token has the score s_v = (w_g g_v - w_b b_v) / temperature. The log-normalisers of both models are
constant over v, so no softmax is needed to sample.

Letters of shapes in this folder: B rows of one model, one per sequence; M models, whose rows may be
stacked to R = M * B; V vocabulary, D hidden size, F intermediate size; H query heads, Hkv KV heads,
Dh head_dim; T tokens that a cache has room for; N nodes of a forest.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from cdgen.kernels.sampling_params import RowStatus, SampleOutput, SamplingParams, fp32
from cdgen.kernels.slot_event import SlotEvent

_MASK32 = 0xFFFFFFFF
_NEVER = float("-inf")


def philox4x32(
    counter: torch.Tensor,  # [..., 4] int64, each word in [0, 2**32)
    key: int,  # 64 bits: low word first
) -> torch.Tensor:  # [..., 4] int64, each word in [0, 2**32)
    """Return the words of Philox4x32-10 for every counter (Salmon et al. 2011, "Parallel random
    numbers: as easy as 1, 2, 3")."""
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key & _MASK32, (key >> 32) & _MASK32
    for _ in range(10):
        # The int64 product wraps, but its bit pattern, and so both halves, are those of uint64.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK32) ^ c1 ^ k0,
            p1 & _MASK32,
            ((p0 >> 32) & _MASK32) ^ c3 ^ k1,
            p0 & _MASK32,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _MASK32, (k1 + 0xBB67AE85) & _MASK32
    return torch.stack([c0, c1, c2, c3], dim=-1)


def random_words(
    seed: int,
    sequence_ids: torch.Tensor,  # [B] int64
    positions: torch.Tensor,  # [B] int32 | int64
    count: int,
) -> torch.Tensor:  # [B, count] int64: one word per (sequence, position, token id)
    """Return, for token v, word v & 3 of the Philox block with the counter
    (v >> 2, position, sequence lo, sequence hi)."""
    blocks = torch.arange((count + 3) // 4, device=sequence_ids.device).expand(
        len(sequence_ids), -1
    )
    ids = sequence_ids.long()[:, None]
    pos = (positions.long()[:, None] & _MASK32).expand_as(blocks)
    low, high = (ids & _MASK32).expand_as(blocks), ((ids >> 32) & _MASK32).expand_as(blocks)
    words = philox4x32(torch.stack([blocks, pos, low, high], dim=-1), seed)
    return words.flatten(1)[:, :count]


def gumbel_from_words(words: torch.Tensor) -> torch.Tensor:  # int64 words -> float32 noise
    """Return -log(E) with E = -log1p(-u) and u = (word + 0.5) / 2**32.

    The winning tail is at small E, where fp32 resolves it. The noise is finite: from -2.9 to 22.9.
    """
    u = ((words.float() + 0.5) * 2.0**-32).clamp(max=1 - 2.0**-24)
    return -torch.log(-torch.log1p(-u))


def truncate(
    score: torch.Tensor,  # [B, V] float32, -inf outside the plausible set
    params: SamplingParams,
) -> torch.Tensor:  # [B, V] bool: True for the tokens that remain
    """Apply top-k, then top-p, then min-p to the order (score descending, token id ascending)."""
    ordered, order = score.sort(dim=-1, descending=True, stable=True)
    keep = ordered > _NEVER
    if params.top_k:
        keep[:, params.top_k :] = False
    if params.top_p < 1:
        weight = (ordered.double() - ordered[:, :1].double()).exp().where(keep, 0.0)
        mass = F.pad(weight.cumsum(-1), (1, 0))  # mass[:, i] sums the i tokens before token i
        keep &= mass[:, :-1] < params.top_p * mass[:, -1:]
    if params.min_p:
        keep &= ordered >= ordered[:, :1] + params.log_min_p
    return torch.zeros_like(keep).scatter(-1, order, keep)


def sample_contrastive(
    good: torch.Tensor,  # [B, V] logits
    bad: torch.Tensor | None,  # [B, V] logits; None when params.bad_weight == 0
    params: SamplingParams,
    seed: int,
    sequence_ids: torch.Tensor,  # [B] int64
    positions: torch.Tensor,  # [B] int32 | int64
    vocab_size: int,
) -> SampleOutput:
    """Draw by Gumbel-max from the scores that truncation keeps; temperature 0 takes the argmax.

    With `params.masked_score`, scores are those of log-probabilities, and every other token takes
    part with that score.
    """
    g = good[:, :vocab_size].float()
    plausible = (g >= g.amax(-1, keepdim=True) + params.log_alpha) & (g > _NEVER)
    absolute = params.masked_score is not None
    score = fp32(params.good_weight) * (g.log_softmax(-1) if absolute else g)
    if bad_weight := fp32(params.bad_weight):
        assert bad is not None
        b = bad[:, :vocab_size].float()
        score = score - bad_weight * (b.log_softmax(-1) if absolute else b)
    if temperature := fp32(params.temperature):
        score = score / temperature

    status = torch.full_like(sequence_ids, RowStatus.OK, dtype=torch.uint8)
    status[(plausible & ~score.isfinite()).any(-1)] = RowStatus.SCORE_OVERFLOW
    if bad_weight:
        status[(plausible & ~b.isfinite()).any(-1)] = RowStatus.BAD_NOT_FINITE
    status[(g == _NEVER).all(-1)] = RowStatus.NO_FINITE_GOOD
    status[(g.isnan() | (g == float("inf"))).any(-1)] = RowStatus.GOOD_NOT_FINITE
    ok = status == RowStatus.OK

    score = torch.where(plausible & ok[:, None], score, _NEVER)
    keep = truncate(score, params) & ok[:, None]
    key = torch.where(keep, score, _NEVER if params.masked_score is None else params.masked_score)
    if temperature:
        key = key + gumbel_from_words(random_words(seed, sequence_ids, positions, vocab_size))
    ids = torch.arange(vocab_size, device=good.device)
    winner = torch.where(key == key.amax(-1, keepdim=True), ids, vocab_size).amin(-1)
    return SampleOutput(
        tokens=torch.where(ok, winner, -1),
        status=status,
        plausible=(plausible & ok[:, None]).sum(-1, dtype=torch.int32),
        kept=keep.sum(-1, dtype=torch.int32),
    )


def embedding(
    tokens: torch.Tensor,  # [N] int64
    positions: torch.Tensor,  # [N] int64
    models: torch.Tensor,  # [blocks] int64
    table: torch.Tensor,  # [M, V, D]
    position_table: torch.Tensor | None,  # [M, P, D]
) -> torch.Tensor:  # [blocks * N, D] float32
    """Return each block's rows of the tokens, plus those of their positions if these are
    learned."""
    blocks = []
    for model in models.tolist():
        x = table[model, tokens].float()
        blocks.append(x if position_table is None else x + position_table[model, positions].float())
    return torch.cat(blocks)


def linear(
    x: torch.Tensor,  # [R, in]
    weight: torch.Tensor,  # [out, in]
    bias: torch.Tensor | None,  # [out]
) -> torch.Tensor:  # [R, out] float32
    """Return x @ weight.T + bias in fp32."""
    return F.linear(x.float(), weight.float(), None if bias is None else bias.float())


def dropout_keep(
    seed: int,
    rate: float,
    layer: int,
    sequence_ids: torch.Tensor,  # [B] int64
    lengths: torch.Tensor,  # [B] int64: the query is at position lengths - 1
    heads: int,
    keys: int,
) -> torch.Tensor:  # [B, heads, keys] bool: True for the weights that dropout keeps
    """Return which attention weights dropout keeps: those with word >= rate * 2**32.

    Philox's key is the seed with its high word flipped: a stream apart from the sampler's. The
    counter is (key index >> 2, query position, sequence lo, sequence hi | layer * heads + head
    in the upper half), so sequence ids stay below 2**48 and layers x heads below 2**16.
    """
    rows = sequence_ids.long()[:, None] | (
        (layer * heads + torch.arange(heads, device=sequence_ids.device)) << 48
    )
    positions = (lengths.long()[:, None] - 1).expand_as(rows)
    words = random_words(
        seed ^ (_MASK32 << 32), rows.flatten(), positions.flatten(), keys
    ).unflatten(0, rows.shape)
    return words >= int(rate * 2.0**32)


def decode_attention(
    query: torch.Tensor,  # [B, H, Dh]
    keys: torch.Tensor,  # [B, Hkv, T, Dh] cache, of any float dtype or int8
    values: torch.Tensor,  # [B, Hkv, T, Dh] cache, like keys
    lengths: torch.Tensor,  # [B] int64: row b attends to cache entries [0, lengths[b])
    scale: float,
    keep: torch.Tensor | None = None,  # [B, H, T] bool, from `dropout_keep`
    rate: float = 0.0,
    scales: torch.Tensor | None = None,  # [2, B, Hkv, T], from `quantized`: of keys, of values
) -> torch.Tensor:  # [B, H, Dh] in the query's dtype
    """Attend from one query per row to the row's keys; head h reads KV head h // (H / Hkv)."""
    group = query.shape[1] // keys.shape[1]
    wide = torch.stack([keys, values]).float()
    if scales is not None:
        wide = wide * scales[..., None]
    k, v = wide.repeat_interleave(group, dim=2)
    weight = torch.einsum("bhd,bhtd->bht", query.float(), k) * scale
    beyond = torch.arange(keys.shape[2], device=keys.device) >= lengths[:, None]
    weight = weight.masked_fill(beyond[:, None], _NEVER).softmax(-1)
    if keep is not None:
        weight = weight * keep / (1 - rate)
    # Entries past the length may hold anything, NaN included: 0 * NaN must not reach the sum.
    v = v.masked_fill(beyond[:, None, :, None], 0.0)
    return torch.einsum("bht,bhtd->bhd", weight, v).to(query.dtype)


def ancestors(parents: torch.Tensor) -> torch.Tensor:  # [N] int64 -> [N, N] bool
    """Return, at [i, j], whether node j is node i or one of its ancestors. `parents` is -1 for
    roots; every other node comes after its parent."""
    related = torch.eye(len(parents), dtype=torch.bool, device=parents.device)
    for node, parent in enumerate(parents.tolist()):
        if parent >= 0:
            related[node] |= related[parent]
    return related


def tree_attention(
    query: torch.Tensor,  # [N, H, Dh]
    keys: torch.Tensor,  # [N, Hkv, Dh]
    values: torch.Tensor,  # [N, Hkv, Dh]
    parents: torch.Tensor,  # [N] int64, -1 for roots
    scale: float,
) -> torch.Tensor:  # [N, H, Dh] in the query's dtype
    """Attend from each node to itself and its ancestors; head h reads KV head h // (H / Hkv)."""
    group = query.shape[1] // keys.shape[1]
    k, v = (x.float().repeat_interleave(group, dim=1) for x in (keys, values))
    weight = torch.einsum("ihd,jhd->hij", query.float(), k) * scale
    weight = weight.masked_fill(~ancestors(parents), _NEVER).softmax(-1)
    return torch.einsum("hij,jhd->ihd", weight, v).to(query.dtype)


def rms_norm(
    x: torch.Tensor,  # [B, D]
    weight: torch.Tensor,  # [D], or [B, D]
    eps: float,
) -> torch.Tensor:  # [B, D]
    """Return x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019), rounded to x's dtype
    before the weight and to the weight's after it."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (weight * normed.to(x.dtype)).to(weight.dtype)


def stored(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round `x` to nearest even in `dtype`, as a cache does. fp8 saturates at its largest number,
    448, for infinities too, which some versions of torch would convert to NaN."""
    if dtype is torch.float8_e4m3fn:
        x = x.float().clamp(-448, 448)
    return x.to(dtype)


def quantized(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # [..., Dh] -> and [...]
    """Return x / s rounded to nearest even in int8, and s = max |x| / 127 in float32, over the last
    dimension. If a number is not finite, s is NaN, and what is read back is NaN throughout."""
    wide = x.float()
    scale = wide.abs().amax(-1) / 127
    scale = torch.where(scale.isfinite(), scale, torch.nan)
    numbers = (wide / scale[..., None]).round().clamp(-127, 127)
    return torch.where((scale > 0)[..., None], numbers, 0.0).to(torch.int8), scale


def rotary(
    x: torch.Tensor,  # [B, H, Dh]
    cos: torch.Tensor,  # [B, Dh / 2], at each row's position
    sin: torch.Tensor,  # [B, Dh / 2]
) -> torch.Tensor:  # [B, H, Dh]
    """Rotate pair (x_i, x_{i + Dh/2}) by the position's angle i (Su et al. 2021; Llama layout)."""
    low, high = x.float().chunk(2, dim=-1)
    c, s = cos[:, None], sin[:, None]
    return torch.cat([low * c - high * s, high * c + low * s], dim=-1).to(x.dtype)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:  # [B, 2 F] -> [B, F]
    """Return silu(gate) * up of the two halves of a row (Shazeer 2020)."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


def layer_norm(
    x: torch.Tensor,  # [B, D]
    weight: torch.Tensor,  # [D], or [B, D]
    bias: torch.Tensor,  # like weight
    eps: float,
) -> torch.Tensor:  # [B, D]
    """Return (x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias (Ba et al. 2016),
    rounded once, to the weight's dtype."""
    wide = x.float()
    centred = wide - wide.mean(-1, keepdim=True)
    normed = centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps)
    return (normed * weight.float() + bias.float()).to(weight.dtype)


def gelu(x: torch.Tensor, kind: Literal["tanh", "erf"]) -> torch.Tensor:  # [B, F] -> [B, F]
    """Return x Phi(x), Phi being the normal distribution function or its approximation by a tanh
    (Hendrycks and Gimpel 2016)."""
    approximate = {"tanh": "tanh", "erf": "none"}[kind]
    return F.gelu(x.float(), approximate=approximate).to(x.dtype)


def advance_slots(
    tokens: torch.Tensor,  # [B] int64, written: to feed next
    positions: torch.Tensor,  # [B] int64, written: of that token in its sequence
    alive: torch.Tensor,  # [B] bool, written
    prompt_tokens: torch.Tensor,  # [B] int64, length of the prompt
    prompts: torch.Tensor,  # [B, P] int64
    drawn: SampleOutput,
    stops: torch.Tensor,  # [K] int64
    max_new_tokens: int,
    record: torch.Tensor,  # [3, B] int32, written: SlotEvent, token, size of the plausible set
) -> None:
    """Advance every slot by one token: of its prompt, or the drawn one once the prompt is used
    up."""
    following = positions + 1
    draws = alive & (following >= prompt_tokens)
    event = torch.full_like(positions, SlotEvent.DRAWN)
    event.masked_fill_(following - prompt_tokens + 1 >= max_new_tokens, SlotEvent.LENGTH)
    event.masked_fill_((drawn.tokens[:, None] == stops).any(1), SlotEvent.EOS)
    event.masked_fill_(drawn.status != RowStatus.OK, SlotEvent.QUARANTINED)
    event.masked_fill_(~draws, SlotEvent.NOTHING)
    record[0], record[1], record[2] = event, drawn.tokens, drawn.plausible
    alive &= event <= SlotEvent.DRAWN
    last = prompts.shape[1] - 1
    from_prompt = prompts.gather(1, following.clamp(max=last)[:, None])[:, 0]
    tokens.copy_(torch.where(draws, drawn.tokens, from_prompt) * alive)
    positions.copy_(following * alive)
