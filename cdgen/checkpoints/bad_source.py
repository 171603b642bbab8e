"""The source of BAD: the values that `--bad` accepts, and the text that a plan records.

To add a kind of BAD that is derived from GOOD:

1. name it in `MadeOfGood` and give its number a field of its own;
2. read it in `parse_bad`, and mention it in the messages there;
3. write it in `BadSource.plan_text`;
4. compute it in models/decoder.py and models/prefill.py, count its memory in engine/memory.py, and
   say in `require_weaker` when it would be GOOD;
5. name it in the help of `--bad` (cli/corpus.py), and let `cdgen train --select-pair` offer it
   (train/pair/bads_of_good.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from cdgen.errors import UsageError

MadeOfGood = Literal["layers", "window", "dropout"]


@dataclass(frozen=True)
class BadSource:
    """A checkpoint folder, a BAD made of GOOD itself, or no BAD at all.

    dropout is GOOD with attention dropout; layers is GOOD stopped after its first layers; window
    is GOOD that attends to the last tokens only.
    """

    kind: Literal["folder", "none"] | MadeOfGood
    folder: Path | None = None  # set only for kind "folder"
    dropout: float = 0.0  # probability, set only for kind "dropout", strictly between 0 and 1
    layers: int = 0  # set only for kind "layers", 1 or more
    window: int = 0  # tokens, the current one included; set only for kind "window", 1 or more

    @property
    def is_made_of_good(self) -> bool:
        return self.kind in get_args(MadeOfGood)

    def require_weaker(
        self,
        layers: int,  # of GOOD
        tokens: int,  # of the longest sequence
    ) -> None:
        """Raise UsageError if BAD would be GOOD."""
        if self.layers >= layers:
            expected = f"expected 1 to {layers - 1} of GOOD's {layers} layers"
            if layers == 1:
                expected = "GOOD has one layer, so none can be left out"
            raise UsageError(f"--bad layers:{self.layers}: {expected}")
        if self.window and self.window >= tokens - 1:
            raise UsageError(
                f"--bad window:{self.window}: BAD would be GOOD, because a sequence's last token"
                f" is drawn after {tokens - 1} others: give a smaller N"
            )

    def plan_text(self, checkpoint_sha256: str | None) -> str:
        """Return what a plan records as its BAD: the hash of BAD's checkpoint, or else the kind.

        Finished corpora hold these texts, so a kind's text must never change.
        """
        if checkpoint_sha256 is not None:
            return checkpoint_sha256
        if self.kind == "dropout":
            return f"dropout:{self.dropout}"
        if self.kind == "layers":
            return f"layers:{self.layers}"
        return f"window:{self.window}" if self.kind == "window" else "none"


def parse_bad(text: str) -> BadSource:
    """Parse the value of `--bad`: `none`, `dropout:P`, `layers:N`, `window:N` or a folder. Raises
    UsageError."""
    if not text:
        raise UsageError(
            "--bad is empty: expected a checkpoint folder, dropout:P, layers:N, window:N or none"
        )
    if text == "none":
        return BadSource("none")
    kind, _, value = text.partition(":")
    if kind == "dropout":
        return BadSource("dropout", dropout=_parse_dropout(text, value))
    if kind == "layers":
        return BadSource("layers", layers=_parse_count(text, kind, value))
    if kind == "window":
        return BadSource("window", window=_parse_count(text, kind, value))
    return BadSource("folder", folder=Path(text))


def _parse_dropout(text: str, rate: str) -> float:
    try:
        dropout = float(rate)
    except ValueError:
        dropout = 0.0
    if not 0.0 < dropout < 1.0:
        raise UsageError(
            f"--bad {text}: expected dropout:P with P between 0 and 1, such as dropout:0.5"
            " (for a folder of this name: ./dropout)"
        )
    return dropout


def _parse_count(text: str, kind: str, count: str) -> int:
    if not (count.isdecimal() and count.isascii()) or int(count) < 1:
        raise UsageError(
            f"--bad {text}: expected {kind}:N with N of 1 or more, such as {kind}:8 (for a folder"
            f" of this name: ./{kind})"
        )
    return int(count)
