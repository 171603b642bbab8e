"""How far the distributions of the three strategies lie apart, before truncation.

KL(Q || P) = sum over v of q_v (log q_v - log p_v), in nats: what is lost where Q draws and P is
taken for it. The sets nest, so the three are finite: what CD or plausible-only draws, vanilla can.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from cdgen.kernels.sampling_params import SamplingParams


@dataclass(frozen=True)
class Divergence:
    """KL divergences of two strategies at a position, in nats. None: no BAD, or logits that cannot
    be sampled."""

    plausible_vanilla: float | None  # KL(plausible-only || vanilla)
    cd_plausible: float | None  # KL(CD || plausible-only)
    cd_vanilla: float | None  # KL(CD || vanilla)


def divergences(
    good: torch.Tensor,  # [N, V] logits
    bad: torch.Tensor | None,  # [N, V]
    cd: SamplingParams,
) -> list[Divergence | None]:  # N
    """Return the divergences at N positions; None where draws are no matter of probability: at
    temperature 0, and with a `masked_score`."""
    if cd.temperature == 0 or cd.masked_score is not None:
        return [None] * len(good)
    g = good.double()
    outside = good.float() < good.float().amax(-1, keepdim=True) + cd.log_alpha
    scores = cd.good_weight * g / cd.temperature
    vanilla = scores.log_softmax(-1)
    plausible = scores.masked_fill(outside, float("-inf")).log_softmax(-1)
    nothing: list[float | None] = [None] * len(good)
    by_plausible = by_vanilla = nothing
    if bad is not None:
        contrast = scores - cd.bad_weight * bad.double() / cd.temperature
        drawn = contrast.masked_fill(outside, float("-inf")).log_softmax(-1)
        by_plausible, by_vanilla = _kl(drawn, plausible), _kl(drawn, vanilla)
    columns = zip(_kl(plausible, vanilla), by_plausible, by_vanilla, strict=True)
    return [Divergence(*each) for each in columns]


def _kl(log_q: torch.Tensor, log_p: torch.Tensor) -> list[float | None]:  # [N, V] each -> N
    q = log_q.exp()
    terms = torch.where(q > 0, q * (log_q - log_p), 0.0 * q)  # 0 * q keeps NaN
    return [value if math.isfinite(value) else None for value in terms.sum(-1).tolist()]
