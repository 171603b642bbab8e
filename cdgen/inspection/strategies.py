"""The three strategies that are compared at every token: they share everything but the mask and the
contrast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from cdgen.corpus.plan import Plan
from cdgen.inspection.positions import Draws
from cdgen.kernels.sampling_params import SampleOutput, SamplingParams

# The names of plans and of `DrawnTokens`, and how they are called in text.
STRATEGIES = {"vanilla": "vanilla", "plausible": "plausible-only", "cd": "CD"}
ALPHA, CONTRAST = 0.1, 1.0  # where the strategy of a plan has none


@dataclass(frozen=True)
class Strategies:
    """The sampling parameters of each strategy, derived from those of the contrast."""

    cd: SamplingParams

    @classmethod
    def of_plan(cls, plan: Plan) -> Strategies:
        """Return the plan's own strategy and the two others, with the defaults of what the plan
        does not use."""
        own = SamplingParams(**plan.sampling.model_dump())
        if plan.strategy == "vanilla":
            own = replace(own, alpha=ALPHA)
        return cls(own if plan.strategy == "cd" else replace(own, bad_weight=CONTRAST))

    def draws(
        self,
        draw: Callable[[SamplingParams, torch.Tensor | None], SampleOutput],
        bad: torch.Tensor | None,  # what `draw` takes of BAD; None without a BAD
    ) -> Draws:
        """Let each strategy draw at the same positions."""
        return Draws(
            vanilla=draw(self.vanilla, None),
            plausible=draw(self.plausible, None),
            cd=None if bad is None else draw(self.cd, bad),
        )

    @property
    def plausible(self) -> SamplingParams:
        """Plausible-only: the mask without the contrast."""
        return replace(self.cd, bad_weight=0.0)

    @property
    def vanilla(self) -> SamplingParams:
        """GOOD alone."""
        return replace(self.cd, bad_weight=0.0, alpha=0.0)
