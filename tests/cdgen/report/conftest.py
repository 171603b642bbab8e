"""A corpus with contrast and one without, written by the tiny pair, and Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_pair import PairFolders

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


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


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Start Chromium; skip where it or Playwright is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        pytest.skip(f"needs one of {', '.join(_BROWSERS)}: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        # Its sandbox needs rights that a container lacks, and the pages are the tests' own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
