"""Write 256 documents with contrast and 256 without, from the pair in assets/demo-pair.

Run it with `python -m cdgen.cli.demo OUT`, as `make demo` does in a checkout. The two corpora are
ordinary ones; running it again continues them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import wrap

from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.manifest import read_manifest
from cdgen.corpus.reader import corpus_rows
from cdgen.errors import UsageError
from cdgen.generation.config import GenerateConfig
from cdgen.generation.run import generate

ASSETS = Path(__file__).resolve().parents[2] / "assets"
STRATEGIES = ("cd", "vanilla")
# What is printed: the first sequence of each of the first three prompts, whatever it says.
SAMPLES = (0, 8, 16)
SEED = 0
COLUMN = 46  # characters


def write_corpus(strategy: str, out: Path) -> None:
    """Write, or continue, the corpus of one strategy. Raises UsageError outside a checkout."""
    pair = ASSETS / "demo-pair"
    if not pair.is_dir():
        raise UsageError(f"{pair} is missing: run the demo from a checkout of cdgen")
    config = GenerateConfig(
        good=pair / "good",
        bad=str(pair / "bad"),
        prompts=str(ASSETS / "demo-prompts.txt"),
        out=out,
        strategy=strategy,  # type: ignore[arg-type]  # pydantic checks it
        prompt_tokens=12,
        num_sequences=8,
        max_new_tokens=240,
        seed=SEED,
    )
    print(f"== {strategy}: 32 prompts x 8 sequences, seed {SEED} -> {out}", flush=True)
    outcome = generate(config)
    totals = read_manifest(CorpusFolder(out)).totals
    speed = (
        f"{outcome.tokens / outcome.seconds:,.0f} tokens/s"
        if outcome.sequences
        else "written before"
    )
    print(f"   {totals.rows} documents, {totals.new_tokens:,} new tokens, {speed}")


def texts(out: Path) -> list[str]:
    """Return the text of every sequence of a finished corpus."""
    return [row["text"] for row in corpus_rows(out, ["text"])]


def side_by_side(left: str, right: str) -> str:
    """Format two texts in columns of COLUMN characters, ten lines at most."""
    columns = [wrap(" ".join(text.split()), COLUMN)[:10] for text in (left, right)]
    height = max(map(len, columns))
    padded = [lines + [""] * (height - len(lines)) for lines in columns]
    return "\n".join(f"{a:<{COLUMN}}  | {b}" for a, b in zip(*padded, strict=True))


def main(out: Path) -> None:
    """Write both corpora into `out` and print three documents of each side by side."""
    folders = {strategy: out / strategy for strategy in STRATEGIES}
    for strategy, folder in folders.items():
        write_corpus(strategy, folder)
    written = [texts(folder) for folder in folders.values()]
    titles = ("contrast: log p_GOOD - log p_BAD", "vanilla: GOOD alone")
    for sample in SAMPLES:
        print(f"\n{titles[0]:<{COLUMN}}  | {titles[1]}\n{'-' * COLUMN}--+-{'-' * COLUMN}")
        print(side_by_side(*(column[sample] for column in written)))
    print("\nThe corpora (datasets.load_dataset reads these folders):")
    for folder in folders.values():
        print(f"   {folder}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m cdgen.cli.demo OUT")
    from cdgen.cli.app import execute

    execute(lambda: main(Path(sys.argv[1])))
