"""`cdgen train --select-pair`: GOOD and its BADs among the checkpoints of finished runs.

GOOD has the least validation loss of all checkpoints with the first run's tokenizer. BAD may be

    early    an earlier step of GOOD's run
    small    a checkpoint of a run with fewer parameters
    dropout  GOOD itself with attention dropout; its loss is not known

The default BAD is an early one: `choice.py` has the rule.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from cdgen.checkpoints.bad_source import parse_bad
from cdgen.checkpoints.checkpoint import read_json
from cdgen.checkpoints.pair import open_pair
from cdgen.checkpoints.pair_file import Kind, OtherBad, read_pair_file
from cdgen.errors import UsageError
from cdgen.models.registry import lean_config
from cdgen.storage import make_folder, write_atomic
from cdgen.train.pair.candidates import Candidate, find_candidates
from cdgen.train.pair.choice import choose_pair

DROPOUT = "dropout:0.5"
_ADVICE = "lower --gap, or train again with a smaller checkpoint_every"
_PAIR_FILE = """\
# A pair for `cdgen generate --pair FILE`, chosen by `cdgen train --select-pair`. Paths are relative
# to this file; losses are validation losses in nats per token.

# GOOD, the least loss: step {good.step}, {good.parameters:,} parameters, loss {good.loss:.4f}
{good_line}
# BAD, the last step at least {gap:g} above it: step {bad.step}, loss {bad.loss:.4f}
{bad_line}
# Others: put the `bad` of one in place of the line above. `cdgen generate` reads none of this.
# early: an earlier step of GOOD's run; small: a run with fewer parameters; dropout: GOOD itself
# with attention dropout, of which no loss is known.
{others}"""


@dataclass(frozen=True)
class Selection:
    good: Candidate
    bad: Candidate
    early: tuple[Candidate, ...]  # without `bad`
    small: tuple[Candidate, ...]
    dropout: bool  # GOOD can serve as its own BAD
    gap: float
    notes: tuple[str, ...]  # checkpoints left out, and why

    def table(self) -> str:
        rows = [("GOOD", self.good), ("BAD", self.bad)]
        rows += [("early", c) for c in self.early] + [("small", c) for c in self.small]
        lines = [f"{'':8}{'step':>9}{'parameters':>15}{'loss':>9}  checkpoint"]
        lines += [
            f"{kind:8}{c.step:>9,}{c.parameters:>15,}{c.loss:>9.4f}  {c.folder}" for kind, c in rows
        ]
        if self.dropout:
            lines.append(
                f"{'dropout':8}{self.good.step:>9,}{self.good.parameters:>15,}{'-':>9}  {DROPOUT}"
            )
        return "\n".join(lines)


def select_pair(runs: Sequence[Path], gap: float) -> Selection:
    """Choose GOOD and BAD. Raises UsageError if a folder is no run, ModelError if no checkpoint
    fits its role."""
    if not 0 < gap < math.inf:
        raise UsageError(f"--gap: expected nats per token above 0, such as 0.5, got {gap}")
    found, notes = find_candidates(runs)
    run = min(found, key=lambda c: c.loss).run  # of equal losses, the run that was named first
    by_step = {c.step: c for c in found if c.run == run}
    losses = {step: c.loss for step, c in by_step.items()}
    steps = choose_pair(run, losses, gap, _ADVICE)
    good, bad = by_step[steps.good], by_step[steps.bad]
    pair = open_pair(good.folder, parse_bad(str(bad.folder)))  # as `cdgen generate` will
    small = [c for c in found if c.parameters < good.parameters]
    return Selection(
        good,
        bad,
        early=tuple(c for c in by_step.values() if c.step < good.step and c is not bad),
        small=tuple(sorted(small, key=lambda c: -c.parameters)),
        dropout=lean_config(read_json(good.folder / "config.json"), 1) is not None,
        gap=gap,
        notes=(*notes, *pair.notes),
    )


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
        gap=selection.gap,
        good_line=_yaml({"good": _relative(selection.good.folder, out)}),
        bad_line=_yaml({"bad": _relative(selection.bad.folder, out)}),
        others=_yaml({"alternatives": [bad.model_dump() for bad in _others(selection, out)]}),
    )
    write_atomic(out, content.encode())


def _others(selection: Selection, out: Path) -> list[OtherBad]:
    good = selection.good
    rows: list[tuple[Kind, str, Candidate, float | None]] = [
        *(("early", _relative(c.folder, out), c, c.loss) for c in selection.early),
        *(("small", _relative(c.folder, out), c, c.loss) for c in selection.small),
        *((("dropout", DROPOUT, good, None),) if selection.dropout else ()),
    ]
    return [
        OtherBad(bad=bad, kind=kind, step=c.step, parameters=c.parameters, loss=loss)
        for kind, bad, c, loss in rows
    ]


def _relative(folder: Path, file: Path) -> str:
    return os.path.relpath(folder.resolve(), file.resolve().parent)


def _yaml(values: dict[str, object]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=math.inf)
