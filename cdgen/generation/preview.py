"""`cdgen generate --preview N`: the first sequences of a corpus, without the corpus."""

from __future__ import annotations

from collections.abc import Iterator

from cdgen.corpus.prompts import first_prompts
from cdgen.corpus.rows import Row
from cdgen.generation.build_engine import fitting_engine
from cdgen.generation.config import DocumentConfig
from cdgen.generation.inputs import open_models, prompt_source, require_known_token
from cdgen.generation.memory_run import MemoryRun, memory_plan


def preview(config: DocumentConfig, count: int) -> Iterator[Row]:
    """Yield the first `count` rows of the corpus that `config` describes, reading no more documents
    than they need.

    On a CPU, through the lean decoders, the tokens are the corpus's own. Elsewhere logits may round
    otherwise, because fewer sequences run at once. Raises the errors of `generate`.
    """
    pair = open_models(config)
    prompts = first_prompts(prompt_source(config, pair), -(-count // config.num_sequences))
    for number, ids in enumerate(prompts):
        require_known_token(number, max(ids), pair)
    plan = memory_plan(config, pair, prompts)
    plan, engine = fitting_engine(plan, pair, config.slots == "auto", ranges_too=True)
    yield from MemoryRun(plan, pair, prompts, engine).rows(count, progress=False)
