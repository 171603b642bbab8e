"""CTranslate2: its converter from the Hugging Face folder, `generate_batch` of a static batch."""

from __future__ import annotations

import json
from pathlib import Path

import ctranslate2
from ctranslate2.converters import TransformersConverter

from cdgen.bench.end_to_end.engines.worker import (
    Engine,
    Job,
    cache_as_weights,
    converted_once,
    work,
)


def convert(good: str, out: Path) -> None:
    TransformersConverter(good).convert(str(out))
    # It opens no model without special tokens, and GOOD has none: the first token stands in.
    settings = json.loads((out / "config.json").read_text())
    stand_in = json.loads((out / "vocabulary.json").read_text())[0]
    named = {key: stand_in if value is None else value for key, value in settings.items()}
    (out / "config.json").write_text(json.dumps(named))


def load(job: Job) -> Engine:
    folder = converted_once(job, "ctranslate2", lambda out: convert(job.good, out))
    generator = ctranslate2.Generator(
        str(folder), device="cpu", compute_type=job.dtype, intra_threads=job.threads
    )
    vocabulary = json.loads((folder / "vocabulary.json").read_text())

    def generate(prompts: list[list[int]], new: int, greedy: bool) -> list[list[int]]:
        results = generator.generate_batch(
            [[vocabulary[token] for token in prompt] for prompt in prompts],
            max_length=new,
            min_length=new,
            sampling_topk=1 if greedy else 0,
            include_prompt_in_result=False,
            end_token=[],
        )
        return [result.sequences_ids[0] for result in results]

    return Engine(ctranslate2.__version__, cache_as_weights(job), generate)


if __name__ == "__main__":
    work(load)
