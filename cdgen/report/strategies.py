"""How often three strategies draw the same token with the same noise, and how far their
distributions lie apart, over the drawn tokens of the samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cdgen.inspection.positions import Position
from cdgen.page.parts import Section, Table

Pair = tuple[str, str]  # of strategies, as the page calls them
_CONTRAST: Pair = ("CD", "vanilla")
_PAIRS = {  # their draws and their divergence in a Position
    ("plausible-only", "vanilla"): ("plausible", "vanilla", "plausible_vanilla"),
    ("CD", "plausible-only"): ("cd", "plausible", "cd_plausible"),
    _CONTRAST: ("cd", "vanilla", "cd_vanilla"),
}


@dataclass
class StrategySums:
    """Sums over positions, and how many there were."""

    strategy: str  # of the corpus: cd, vanilla or plausible
    tokens: int = 0
    own: int = 0  # draws of the corpus's strategy that give the corpus's own token
    equal: defaultdict[Pair, int] = field(default_factory=lambda: defaultdict(int))
    drawn: defaultdict[Pair, int] = field(default_factory=lambda: defaultdict(int))
    divergence: defaultdict[Pair, float] = field(default_factory=lambda: defaultdict(float))
    measured: defaultdict[Pair, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, records: Sequence[Position]) -> None:
        """Add the drawn tokens of a sequence."""
        for record in records:
            self.tokens += 1
            self.own += getattr(record.drawn, self.strategy) == record.token
            for pair, (one, other, divergence) in _PAIRS.items():
                draws = getattr(record.drawn, one), getattr(record.drawn, other)
                if None not in draws:
                    self.drawn[pair] += 1
                    self.equal[pair] += draws[0] == draws[1]
                value = getattr(record.divergence, divergence, None)
                if value is not None:
                    self.measured[pair] += 1
                    self.divergence[pair] += value


def strategy_section(
    names: Sequence[str],  # of the corpora
    sums: Mapping[str, StrategySums],  # of those that were read
    problems: Sequence[str],  # why the others were not
) -> Section:
    """Return the section of the strategies, or what keeps it from being measured."""
    notes = [*problems]
    if not sums:
        return Section("strategies", "Agreement of the strategies", notes)
    notes.insert(
        0,
        "At every drawn token of the coloured samples, GOOD and BAD give the distributions of three"
        " strategies after the same text. Agreement is how often two of them draw the same token"
        " with the same noise; KL is how far the first lies from the second, before truncation.",
    )
    rows = [
        ["drawn tokens", *(f"{sums[n].tokens:,}" if n in sums else "-" for n in names)],
        ["the corpus's own token drawn again", *(_own(sums.get(name)) for name in names)],
    ]
    for pair in _PAIRS:
        shares = (_agreement(sums.get(name), pair) for name in names)
        rows.append([f"agreement of {pair[0]} and {pair[1]}", *shares])
    for pair in _PAIRS:
        means = (_divergence(sums.get(name), pair) for name in names)
        rows.append([f"KL({pair[0]} || {pair[1]}), nats", *means])
    table = Table("Strategies on the texts of", ["", *names], rows)
    return Section("strategies", "Agreement of the strategies", notes, tables=[table])


def agreement_sentences(sums: Mapping[str, StrategySums]) -> list[str]:
    """Say how often the contrast changes the token that would be drawn; nothing without sums."""
    drawn = {name: own for name, own in sums.items() if own.drawn[_CONTRAST]}
    if not drawn:
        return []
    places = " and ".join(f"{_agreement(own, _CONTRAST)} ({name})" for name, own in drawn.items())
    return [
        f"Where samples are coloured, CD and vanilla sampling draw the same token at {places} of"
        " the positions."
    ]


def _own(sums: StrategySums | None) -> str:
    return f"{100 * sums.own / sums.tokens:.1f} %" if sums and sums.tokens else "-"


def _agreement(sums: StrategySums | None, pair: Pair) -> str:
    if sums is None or not sums.drawn[pair]:
        return "-"
    return f"{100 * sums.equal[pair] / sums.drawn[pair]:.1f} %"


def _divergence(sums: StrategySums | None, pair: Pair) -> str:
    if sums is None or not sums.measured[pair]:
        return "-"
    return f"{sums.divergence[pair] / sums.measured[pair]:.3f}"
