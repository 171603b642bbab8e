"""`cdgen train --select-pair`: GOOD and its BADs among the checkpoints of finished runs.

GOOD has the least validation loss of all checkpoints with the first run's tokenizer. BAD may be

    early    an earlier step of GOOD's run
    small    a checkpoint of a run with fewer parameters
    layers, window, dropout  GOOD itself, worsened: `bads_of_good.py`

The default BAD is an early one: `choice.py` has the rule. --bad names another.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml

from cdgen.checkpoints.bad_source import parse_bad
from cdgen.checkpoints.pair import open_pair
from cdgen.checkpoints.pair_file import OtherBad, read_pair_file
from cdgen.errors import UsageError
from cdgen.storage import make_folder, write_atomic
from cdgen.train.pair.bads_of_good import BadOfGood, bads_of_good
from cdgen.train.pair.candidates import Candidate, find_candidates
from cdgen.train.pair.choice import choose_pair, good_step

_ADVICE = "lower --gap, or train again with a smaller checkpoint_every"
_PAIR_FILE = """\
# A pair for `cdgen generate --pair FILE`, chosen by `cdgen train --select-pair`. Paths are relative
# to this file; losses are validation losses in nats per token.

# GOOD, the least loss: step {good.step}, {good.parameters:,} parameters, loss {good.loss:.4f}
{good_line}
# BAD, {reason}: step {bad.step}, loss {loss}
{bad_line}
# Others: put the `bad` of one in place of the line above. `cdgen generate` reads none of this.
# early: an earlier step of GOOD's run; small: a run with fewer parameters; layers, window, dropout:
# GOOD itself after its first layers, on the last tokens only, or with attention dropout.
{others}"""


class Row(NamedTuple):
    """A model of the table and the pair file."""

    kind: str
    step: int
    parameters: int
    loss: float | None  # nats/token
    model: Path | str  # a checkpoint, or the text of --bad

    @property
    def shown_loss(self) -> str:
        return "-" if self.loss is None else f"{self.loss:.4f}"


@dataclass(frozen=True)
class Selection:
    good: Candidate
    bad: Row
    others: tuple[Row, ...]  # early, small, and made of GOOD
    reason: str  # for BAD, in words
    notes: tuple[str, ...]  # checkpoints left out, and why

    def table(self) -> str:
        lines = [f"{'':8}{'step':>9}{'parameters':>15}{'loss':>9}  model"]
        for row in (_row("GOOD", self.good), self.bad._replace(kind="BAD"), *self.others):
            numbers = f"{row.step:>9,}{row.parameters:>15,}{row.shown_loss:>9}"
            lines.append(f"{row.kind:8}{numbers}  {row.model}")
        return "\n".join(lines)


def select_pair(runs: Sequence[Path], gap: float, bad: str | None = None) -> Selection:
    """Choose GOOD and BAD; `bad` names one made of GOOD, as for --bad of `cdgen generate`.

    Raises UsageError if a folder is no run or `bad` is not made of GOOD, ModelError if no
    checkpoint fits its role.
    """
    asked = None if bad is None else parse_bad(bad)
    if asked and not asked.is_made_of_good:
        raise UsageError(f"--bad {bad}: expected layers:N, window:N or dropout:P")
    if not 0 < gap < math.inf:
        raise UsageError(f"--gap: expected nats per token above 0, such as 0.5, got {gap}")
    found, notes = find_candidates(runs)
    run = min(found, key=lambda c: c.loss).run  # of equal losses, the run that was named first
    by_step = {c.step: c for c in found if c.run == run}
    losses = {step: c.loss for step, c in by_step.items()}
    good = by_step[good_step(losses)]
    if asked:
        chosen, reason = asked.plan_text(None), "made of GOOD"
    else:
        step = choose_pair(run, losses, gap, _ADVICE).bad
        chosen, reason = str(by_step[step].folder), f"the last step at least {gap:g} above it"
    pair = open_pair(good.folder, parse_bad(chosen))  # as `cdgen generate` will
    rows = _rows(good, found, bads_of_good(good, pair.context_length or 0, asked))
    bad_row = next(row for row in rows if str(row.model) == chosen)
    others = tuple(row for row in rows if row is not bad_row)
    return Selection(good, bad_row, others, reason, (*notes, *pair.notes))


def _rows(good: Candidate, found: Sequence[Candidate], of_good: Sequence[BadOfGood]) -> list[Row]:
    """Return all that may be BAD."""
    early = [c for c in found if c.run == good.run and c.step < good.step]
    small = sorted(
        (c for c in found if c.parameters < good.parameters), key=lambda c: -c.parameters
    )
    return [
        *(_row("early", c) for c in early),
        *(_row("small", c) for c in small),
        *(Row(b.source.kind, good.step, good.parameters, b.loss, b.text) for b in of_good),
    ]


def _row(kind: str, of: Candidate) -> Row:
    return Row(kind, of.step, of.parameters, of.loss, of.folder)


def write_pair_file(selection: Selection, out: Path) -> None:
    """Write the pair file. Raises UsageError if `out` is something other than a pair file."""
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder: name the file to write, such as pair.yaml")
    if out.exists():
        read_pair_file(out)  # raises, so that a recipe given by mistake is not overwritten
    make_folder(out.parent)
    content = _PAIR_FILE.format(
        good=selection.good,
        bad=selection.bad,
        reason=selection.reason,
        loss=selection.bad.shown_loss,
        good_line=_yaml({"good": _named(selection.good.folder, out)}),
        bad_line=_yaml({"bad": _named(selection.bad.model, out)}),
        others=_yaml({"alternatives": [_other(row, out) for row in selection.others]}),
    )
    write_atomic(out, content.encode())


def _other(row: Row, out: Path) -> dict[str, object]:
    fields = row._asdict()
    return OtherBad(bad=_named(fields.pop("model"), out), **fields).model_dump()


def _named(model: Path | str, file: Path) -> str:
    """Return a model as a pair file names it: a folder relative to the file, or as for --bad."""
    if isinstance(model, str):
        return model
    return os.path.relpath(model.resolve(), file.resolve().parent)


def _yaml(values: dict[str, object]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=math.inf)
