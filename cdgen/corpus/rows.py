"""A row of a corpus: its columns, its text, and the counts over many rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from cdgen.corpus.cut_character import CutCharacter
from cdgen.corpus.plan import FrozenModel, Plan
from cdgen.finish_reason import FINISH_REASONS
from cdgen.words import split_words

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence of the corpus."""

    sequence_id: int
    prompt_id: int
    text: str
    tokens: list[int]  # prompt included
    prompt_tokens: int
    new_tokens: int
    finish_reason: str  # one of FINISH_REASONS
    mean_plausible: float  # mean size of the plausible set over the new tokens
    good_logprob: float | None  # nats over the new tokens; None unless the plan has logprobs


def columns_of(plan: Plan) -> dict[str, str]:
    """Return the type of every column as `datasets` names it; `tokens` is a list of that type."""
    columns = {
        "sequence_id": "int64",
        "prompt_id": "int64",
        "text": "string",
        "tokens": "int32",
        "prompt_tokens": "int32",
        "new_tokens": "int32",
        "finish_reason": "string",
        "mean_plausible": "float32",
    }
    return columns | ({"good_logprob": "float32"} if plan.logprobs else {})


def _every_reason(counts: dict[str, int]) -> dict[str, int]:
    if counts.keys() != set(FINISH_REASONS):
        raise ValueError(f"expected {', '.join(FINISH_REASONS)}, got {', '.join(counts)}")
    return counts


class Counts(FrozenModel):
    """Totals over some rows."""

    rows: int
    tokens: int  # prompts included
    new_tokens: int
    words: int  # as `cdgen.words` divides them
    text_bytes: int  # UTF-8
    finish_reasons: Annotated[dict[str, int], AfterValidator(_every_reason)]

    def __add__(self, other: Counts) -> Counts:
        names = ("rows", "tokens", "new_tokens", "words", "text_bytes")
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        reasons: dict[str, int] = {
            reason: self.finish_reasons[reason] + other.finish_reasons[reason]
            for reason in FINISH_REASONS
        }
        return Counts(**sums, finish_reasons=reasons)


NOTHING = Counts(
    rows=0,
    tokens=0,
    new_tokens=0,
    words=0,
    text_bytes=0,
    finish_reasons={reason: 0 for reason in FINISH_REASONS},
)


def count_rows(rows: Iterable[Mapping[str, Any]]) -> Counts:
    """Return the totals over `rows`, which map the names of `columns_of` to values."""
    counts = dict.fromkeys(("rows", "tokens", "new_tokens", "words", "text_bytes"), 0)
    reasons = Counter[str]()
    for row in rows:
        counts["rows"] += 1
        counts["tokens"] += len(row["tokens"])
        counts["new_tokens"] += row["new_tokens"]
        counts["words"] += len(split_words(row["text"]))
        counts["text_bytes"] += len(row["text"].encode())
        reasons[row["finish_reason"]] += 1
    return Counts(**counts, finish_reasons={reason: reasons[reason] for reason in FINISH_REASONS})


class TextRenderer:
    """The text of token sequences. BOS and EOS, the `boundaries`, separate documents."""

    def __init__(self, tokenizer: Tokenizer, boundaries: Collection[int]) -> None:
        self._tokenizer, self._boundaries = tokenizer, boundaries
        self._tail = CutCharacter(tokenizer)

    def text(self, tokens: Sequence[int], is_cut: bool = False) -> str:
        """Return the documents in `tokens`, joined by a blank line. If the sequence was cut at a
        limit, which may fall within a character, it ends with the last whole one."""
        documents: list[list[int]] = [[]]
        for token in tokens:
            if token in self._boundaries:
                documents.append([])
            else:
                documents[-1].append(token)
        last = documents.pop()
        texts = [
            *map(self._decode, documents),
            self._decode_cut(last) if is_cut else self._decode(last),
        ]
        return "\n\n".join(text for text in texts if text)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _decode_cut(self, tokens: Sequence[int]) -> str:
        whole, ends_cut = self._tail.without(tokens)
        return self._decode(whole).removesuffix("\ufffd" if ends_cut else "")
