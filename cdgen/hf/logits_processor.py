"""A logits processor that contrasts GOOD, the model that generates, with BAD.

Plain PyTorch, without a kernel of cdgen: this is also the baseline of the benchmarks.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from transformers import LogitsProcessor, PreTrainedModel

from cdgen.engine.continuation import Continuation
from cdgen.hf.padding import continuation, known_mask, text_model


class ContrastiveLogitsProcessor(LogitsProcessor):
    """Scores log p_GOOD - contrast * log p_BAD over the plausible tokens, -inf for all others.

    A token is plausible if p_GOOD is at least `alpha` times the largest (Li et al. 2023, arXiv
    2210.15097). Use it as

        model.generate(..., logits_processor=LogitsProcessorList([ContrastiveLogitsProcessor(bad)]))

    BAD must have GOOD's tokens and lie on GOOD's device. Its KV cache is kept from step to step; a
    call that does not continue the last one begins anew, so one processor serves any number of
    `generate` calls. Temperature, top-k, top-p and min-p of `generate` act on these scores.

    `attention_mask` [B, P], which is 0 at padding, is that of the prompts of the next `generate`
    calls. Without it, leading padding tokens are found as `generate` finds them; where they may be
    part of the text, because the padding token is also BOS or EOS, this raises ValueError, and so
    it does for a BAD whose logits depend on padding.
    """

    def __init__(
        self,
        bad_model: PreTrainedModel,
        contrast: float = 1.0,
        alpha: float = 0.1,
        attention_mask: torch.Tensor | None = None,  # [B, P]
    ) -> None:
        if not 0 <= contrast < math.inf:
            raise ValueError(f"contrast: expected a finite number of 0 or more, got {contrast}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha: expected a number in [0, 1], got {alpha}")
        self.contrast, self.alpha, self.attention_mask = contrast, alpha, attention_mask
        self.bad = text_model(bad_model)
        self._steps: Continuation | None = None
        self._seen = torch.empty(0, 0, dtype=torch.int64)

    @torch.no_grad()
    def __call__(
        self,
        input_ids: torch.LongTensor,  # [B, T]
        scores: torch.FloatTensor,  # [B, V]: GOOD's logits or log-probabilities
    ) -> torch.FloatTensor:  # [B, V] float32
        """Return the contrasted scores, in nats. Tokens that one of the models lacks get -inf."""
        bad = self._bad_logits(input_ids)
        shared = min(scores.shape[1], bad.shape[1])
        good_logp = scores[:, :shared].float().log_softmax(-1)
        bad_logp = bad[:, :shared].float().log_softmax(-1)
        if self.alpha:
            implausible = good_logp < good_logp.amax(-1, keepdim=True) + math.log(self.alpha)
        else:
            implausible = good_logp == -math.inf
        contrasted = (good_logp - self.contrast * bad_logp).masked_fill(implausible, -math.inf)
        lacking = scores.shape[1] - shared
        if lacking:
            contrasted = F.pad(contrasted, (0, lacking), value=-math.inf)
        return cast(torch.FloatTensor, contrasted)

    def _bad_logits(self, tokens: torch.Tensor) -> torch.Tensor:  # [B, T] -> [B, V]
        """Return BAD's logits after `tokens`: one step if they continue those of the last call."""
        before = self._seen.shape[1]
        continues = tokens.shape[1] == before + 1 and torch.equal(tokens[:, :before], self._seen)
        if self._steps is None or not continues:
            mask = known_mask(tokens, self.bad.model, self.attention_mask)
            self._steps = continuation(self.bad, mask)
        self._seen = tokens
        return self._steps.advance(tokens)
