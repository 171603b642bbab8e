"""The divergences of the strategies, by hand and against the definition."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from cdgen.inspection.divergence import divergences
from cdgen.kernels.sampling_params import SamplingParams

CD = SamplingParams(alpha=0.3)


def test_by_hand() -> None:
    """GOOD and BAD give 1/2, 1/4, 1/4 to the three tokens that are plausible at alpha 0.3, so that
    CD draws each with 1/3."""
    good = torch.tensor([[0.5, 0.25, 0.25, 0.0]]).log()
    bad = good.clone()
    (found,) = divergences(good, bad, CD)
    assert found is not None
    assert found.plausible_vanilla == 0
    expected = math.log(4 / 3) - math.log(2) / 3
    assert math.isclose(found.cd_vanilla or 0, expected, rel_tol=1e-6)
    assert math.isclose(found.cd_plausible or 0, expected, rel_tol=1e-6)


def test_the_mask_costs_the_mass_that_it_removes() -> None:
    good = torch.tensor([[0.75, 0.125, 0.125]]).log()
    (found,) = divergences(good, None, CD)
    assert found is not None
    assert math.isclose(found.plausible_vanilla or 0, -math.log(0.75), rel_tol=1e-6)
    assert found.cd_vanilla is None and found.cd_plausible is None


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_against_the_definition(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    good, bad = torch.randn(2, 5, 40, generator=generator).mul(3).unbind(0)
    params = SamplingParams(1.5, 0.5, alpha=0.05, temperature=temperature)
    for g, b, found in zip(
        good.double(), bad.double(), divergences(good, bad, params), strict=True
    ):
        inside = g >= g.max() + math.log(0.05)
        p = torch.softmax(1.5 * g / temperature, -1)
        masked = torch.where(inside, p, 0) / p[inside].sum()
        q = torch.where(inside, torch.exp((1.5 * g - 0.5 * b) / temperature), 0)
        q = q / q.sum()
        assert found is not None
        for value, (one, other) in {
            found.plausible_vanilla: (masked, p),
            found.cd_plausible: (q, masked),
            found.cd_vanilla: (q, p),
        }.items():
            expected = (one[inside] * (one[inside] / other[inside]).log()).sum()
            assert math.isclose(value or 0, expected, rel_tol=1e-9)


def test_logits_that_cannot_be_sampled_have_none() -> None:
    good = torch.zeros(2, 3)
    good[0, 1] = float("nan")
    broken, fine = divergences(good, good, CD)
    assert broken is not None and set(vars(broken).values()) == {None}
    assert fine is not None and fine.cd_vanilla == 0


def test_draws_that_are_no_matter_of_probability_have_none() -> None:
    good = torch.zeros(1, 3)
    assert divergences(good, None, replace(CD, temperature=0.0)) == [None]
    assert divergences(good, None, replace(CD, masked_score=-20.0)) == [None]
