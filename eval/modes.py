"""The modes of `cdgen eval`, each a set of rules by which models are scored.

`default` scores the first token of a text too and keeps to the context that the model was trained
for. `babylm2025` follows babylm/evaluation-pipeline-2025; `paper` follows Ulm, Du & Snæbjarnarson
2025, who used an earlier commit of it that scored WUG by accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

ModeName = Literal["default", "babylm2025", "paper"]
# Which checkpoint stands for a run: that of least validation loss, the last, or each task's best.
Select = Literal["validation", "last", "paper"]


@dataclass(frozen=True)
class Mode:
    """A set of rules for scoring."""

    name: str
    ties_are_right: bool = False  # otherwise a tie earns what a guess among the tied would
    always_prefix: bool = True  # put BOS or EOS before a text if the tokenizer puts nothing there
    text_is_text: bool = True  # otherwise a special token that a text spells out is one
    rotary_runs_on: bool = False  # do not cut a text to the context unless positions are learned
    pipeline_reading: bool = False  # score the tokens that the pipeline takes for a word's own
    best_glue_epoch: bool = False  # report GLUE's best epoch on the valid file, not its last
    block_perplexity: bool = False  # over blocks that cross documents, not document by document
    wug_metric: Literal["spearman", "acc"] = "spearman"
    select: Select = "validation"  # the rule of `cdgen compare` unless --select names another


_BABYLM2025 = Mode(
    "babylm2025",
    ties_are_right=True,
    always_prefix=False,
    text_is_text=False,
    rotary_runs_on=True,
    pipeline_reading=True,
    best_glue_epoch=True,
)
_PAPER = replace(_BABYLM2025, name="paper", wug_metric="acc", select="paper", block_perplexity=True)

MODES = {mode.name: mode for mode in (Mode("default"), _BABYLM2025, _PAPER)}
