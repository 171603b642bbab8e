"""A corpus with contrast and one without, written by the tiny pair."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_pair import PairFolders


@pytest.fixture(scope="module")
def two_corpora(tiny_pair: PairFolders, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write forty sequences of at most twenty tokens with contrast, and forty without."""
    from cdgen.generation.config import GenerateConfig
    from cdgen.generation.run import generate

    folder = tmp_path_factory.mktemp("two-corpora")
    prompts = folder / "prompts.txt"
    prompts.write_text("".join(f"w{n} w{n + 1} w{n + 2}\n" for n in range(2, 12)))
    for strategy in ("cd", "vanilla"):
        config = GenerateConfig(
            good=tiny_pair.good,
            bad=str(tiny_pair.bad),
            prompts=str(prompts),
            out=folder / strategy,
            strategy=strategy,
            num_sequences=4,
            max_new_tokens=20,
        )
        generate(config)
    return [folder / "cd", folder / "vanilla"]
