"""The word budget: what the tokenizer and every model read, how often, and whether BabyLM's rules
hold (its FAQ of 2026: "the sum of all text seen by all training" counts, and of augmentation "the
augmenters' training data"; its guidelines: at most 10 epochs over the training data)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from cdgen.errors import UsageError
from cdgen.shown_text import in_markdown
from cdgen.storage import canonical_json, make_folder, write_atomic

RULES = {"strict": 100_000_000, "strict-small": 10_000_000}  # words
MAX_EPOCHS = 10
COUNTED = """\
Words are what whitespace separates; scripts without spaces are divided as in Unicode's annex 29.
Each document counts once. A text that was read in part counts in whole, and texts that are not
known to be the same count apart, so the union is an upper bound. Synthetic text is training text of
the student, but brings no source words of its own: those of its models' training text and of its
prompts (at most one word per token) are in the union; not so of a corpus of cdgen generate that a
recipe names as a source, whose models are not looked up. Epochs are counted for each model and
text, copies of a text within an epoch included; making a tokenizer is no epoch, and prompts are
read as part of the synthetic text."""

Role = Literal["tokenizer", "GOOD", "BAD", "prompts", "student"]
_MODELS = ("GOOD", "BAD", "student")


@dataclass(frozen=True)
class Text:
    name: str
    sha256: str  # of its documents, or of the manifest of a synthetic corpus
    words: int
    synthetic: bool = False
    traced: bool = True  # False: synthetic, by models that are not looked up

    @property
    def facts(self) -> dict[str, Any]:
        """Return all fields but the name."""
        return {name: value for name, value in asdict(self).items() if name != "name"}


@dataclass(frozen=True)
class Reading:
    """The fact that `role` read `text` `epochs` times over."""

    role: Role
    text: Text
    epochs: Fraction

    @property
    def words_read(self) -> int:
        return round(self.text.words * self.epochs)


@dataclass(frozen=True)
class Budget:
    readings: tuple[Reading, ...]

    def __post_init__(self) -> None:
        known: dict[str, Text] = {}
        for text in (reading.text for reading in self.readings):
            if (words := known.setdefault(text.sha256, text).words) != text.words:
                raise UsageError(
                    f"{text.name}: the same text, but with {words:,} words in one run and"
                    f" {text.words:,} in another: run the command of both again"
                )

    @property
    def source_words(self) -> int:
        """Return the words in the union of all real text."""
        return self._words(synthetic=False)

    @property
    def synthetic_words(self) -> int:
        return self._words(synthetic=True)

    def _words(self, synthetic: bool) -> int:
        texts = {r.text.sha256: r.text for r in self.readings if r.text.synthetic == synthetic}
        return sum(text.words for text in texts.values())

    def broken(self, limit: int) -> list[str]:
        """Return why the rules of a track of `limit` words do not hold; empty if they do."""
        reasons = []
        if self.source_words > limit:
            over = f"{self.source_words:,} source words, {self.source_words - limit:,} too many"
            reasons.append(f"the union of all text has {over}")
        reasons += [
            f"{r.role} reads {r.text.name} {float(r.epochs):.10g} times over, {MAX_EPOCHS} at most"
            for r in self.readings
            if r.role in _MODELS and r.epochs > MAX_EPOCHS
        ]
        return reasons + self._not_counted()

    def _not_counted(self) -> list[str]:
        """Return the models that helped to make text or tokens but are not counted."""
        roles = {r.role for r in self.readings}
        has_good = "GOOD" in roles
        tokenizer = "the tokenizer was made elsewhere, of text that is not counted here"
        return [tokenizer] * ("tokenizer" not in roles) + [
            f"{r.role} reads {r.text.name}, and what its models were trained on is not counted here"
            for r in self.readings
            if r.text.synthetic and not (r.role == "student" and has_good and r.text.traced)
        ]

    def fields(self) -> dict[str, Any]:
        readings = [
            {
                "reader": r.role,
                "text": r.text.name,
                "text_sha256": r.text.sha256,
                "synthetic": r.text.synthetic,
                "traced": r.text.traced,
                "words": r.text.words,
                "epochs": float(r.epochs),
                "words_read": r.words_read,
            }
            for r in self.readings
        ]
        rules = {
            track: {"words": limit, "epochs": MAX_EPOCHS, "broken": self.broken(limit)}
            for track, limit in RULES.items()
        }
        return {
            "readings": readings,
            "source_words": self.source_words,
            "synthetic_words": self.synthetic_words,
            "rules": rules,
            "counted": " ".join(COUNTED.split()),
        }

    def markdown(self) -> str:
        rows = [
            f"| {in_markdown(r.role)} | {in_markdown(r.text.name)}"
            f"{' (synthetic)' if r.text.synthetic else ''}"
            f" | {r.text.words:,} | {float(r.epochs):.2f} | {r.words_read:,} |"
            for r in self.readings
        ]
        verdicts = []
        for track, limit in RULES.items():
            broken = self.broken(limit)
            says = f"does not hold: {'; '.join(broken)}" if broken else "holds"
            verdicts.append(f"- {track} ({limit:,} words, {MAX_EPOCHS} epochs): {says}")
        return "\n".join(
            [
                "# Word budget\n",
                "| reader | text | words | epochs | words read |",
                "|---|---|--:|--:|--:|",
                *rows,
                f"\nSource words of all of it: {self.source_words:,}."
                f" Synthetic words: {self.synthetic_words:,}.\n",
                *verdicts,
                f"\n{COUNTED}\n",
            ]
        )


def write_budget(budget: Budget, out: Path) -> None:
    """Write out/budget.json and out/budget.md."""
    make_folder(out)
    write_atomic(out / "budget.json", canonical_json(budget.fields()))
    write_atomic(out / "budget.md", budget.markdown().encode())
