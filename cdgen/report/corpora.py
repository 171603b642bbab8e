"""Everything that the page knows of a corpus, finished or not, read in one pass over its rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.plan import Plan
from cdgen.corpus.reader import evenly_spaced, rows_so_far
from cdgen.corpus.status import Status, status
from cdgen.eval.corpus_measures import documents_of, measure
from cdgen.report.reading import COLUMNS, Reading, SampleRow, texts_while_reading

SAMPLES = 100  # rows that the page shows of a corpus
MEASURED = 20_000  # rows, evenly spaced, on which diversity is measured


@dataclass(frozen=True)
class Corpus:
    """A corpus as the page shows it."""

    name: str
    out: Path
    plan: Plan
    status: Status
    reading: Reading
    measures: dict[str, Any] | None  # as `cdgen measure` writes them; None without a row

    @property
    def is_masked(self) -> bool:
        """Whether some tokens are not plausible: with alpha 0 all are."""
        return self.plan.sampling.alpha > 0


def read_corpora(
    folders: Sequence[Path],  # one or two
    training: Sequence[Path],
) -> list[Corpus]:
    """Read the corpora. The second one shows the rows that continue the first one's prompts.

    Raises UsageError for a folder without a corpus, StorageError for a damaged one.
    """
    names = _names(folders)
    first = _read(names[0], folders[0], training, None)
    if len(folders) == 1:
        return [first]
    plan = CorpusFolder(folders[1]).plan
    partners = None
    if have_same_prompts(first.plan, plan):
        partners = {partner_of(row, first.plan, plan) for row in first.reading.samples.values()}
    return [first, _read(names[1], folders[1], training, partners)]


def have_same_prompts(one: Plan, other: Plan) -> bool:
    """Return whether two plans continue the same prompts, token for token."""
    return one.prompts.tokens_sha256 == other.prompts.tokens_sha256


def partner_of(row: SampleRow, own: Plan, other: Plan) -> int:
    """Return the sequence of the plan `other` that stands beside `row`: the same prompt, and as far
    down among its sequences as there are."""
    place = row.sequence_id - row.prompt_id * own.sequences_per_prompt
    return row.prompt_id * other.sequences_per_prompt + min(place, other.sequences_per_prompt - 1)


def _names(folders: Sequence[Path]) -> list[str]:
    """Return short names of the corpora that differ: the last parts of their paths if they do."""
    names = [folder.resolve().name or str(folder) for folder in folders]
    if len({*names}) < len(names):
        names = [str(folder) for folder in folders]
    if len({*names}) < len(names):
        names[1] += " again"
    return names


def _read(name: str, out: Path, training: Sequence[Path], wanted: set[int] | None) -> Corpus:
    found, reading = status(out), Reading()
    measures = None
    if count := found.counts.rows:
        samples = evenly_spaced(count, SAMPLES)

        def is_sample(index: int, sequence_id: int) -> bool:
            return index in samples if wanted is None else sequence_id in wanted

        texts = texts_while_reading(rows_so_far(out, COLUMNS), reading, is_sample)
        reference = chain.from_iterable(map(documents_of, training)) if training else None
        measures = asdict(measure(_some(texts, count), reference))
    return Corpus(name, out, CorpusFolder(out).plan, found, reading, measures)


def _some(texts: Iterable[str], count: int) -> Iterator[str]:
    """Yield MEASURED of `count` texts, and read all of them."""
    measured = evenly_spaced(count, MEASURED)
    return (text for index, text in enumerate(texts) if index in measured)
