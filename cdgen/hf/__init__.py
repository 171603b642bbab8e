"""Contrastive sampling for people who generate with transformers.

`ContrastiveLogitsProcessor` changes the scores of `model.generate`; `contrastive_generate`, given
as its `custom_generate`, draws the tokens that cdgen's own engine draws.
"""

from cdgen.hf.contrastive_generate import contrastive_generate
from cdgen.hf.logits_processor import ContrastiveLogitsProcessor

__all__ = ["ContrastiveLogitsProcessor", "contrastive_generate"]
