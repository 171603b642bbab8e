"""Try every fault on `cdgen` commands, and write what came of it.

python tests/torture/campaign.py --seed 1 --rounds 200 --out docs/reliability.json (`make torture`)
writes the figures, and into docs/reliability.md the table that shows them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before torch is imported: one thread, so that a forked process lacks none.
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "cdgen"), str(HERE.parent / "train")]

import disk_faults  # noqa: E402
import power_faults  # noqa: E402
import process_faults  # noqa: E402
from commands import fork_stages, import_what_they_need  # noqa: E402
from material import FORMATS, Material  # noqa: E402
from reliability_page import write_page  # noqa: E402
from trials import Tally, Trials  # noqa: E402

SHARES = {
    "generate": 0.7,
    "finalize": 0.2,
    "train": 0.075,
    "run": 0.025,
}  # of the rounds of kill -9
Part = Callable[[], Iterator[Tally]]


def parts(trials: Trials, rounds: int) -> dict[str, Part]:
    """Return the parts of the campaign by name."""
    few = max(2, rounds // 20)

    def kills() -> Iterator[Tally]:
        for command, share in SHARES.items():
            yield process_faults.kill(trials, command, max(1, round(share * rounds)))

    def calls() -> Iterator[Tally]:
        yield disk_faults.crash_at_every_call(trials)
        yield from disk_faults.every_failing_call(trials)
        yield disk_faults.full_disk(trials)

    def power() -> Iterator[Tally]:
        yield from power_faults.power_loss_of_generate(trials)
        yield power_faults.missing_syncs(trials)
        yield from power_faults.power_loss_of_train(trials)
        yield power_faults.power_loss_of_eval(trials)
        yield power_faults.power_loss_of_run(trials, rounds // 2)

    def others() -> Iterator[Tally]:
        yield from process_faults.two_at_once(trials, few)
        yield process_faults.stale_claims(trials, few)
        yield process_faults.jumping_clock(trials, few)
        yield process_faults.moved_times(trials, max(1, few // 5))

    def flips() -> Iterator[Tally]:
        return disk_faults.flipped_bytes(trials)

    return {"kills": kills, "calls": calls, "power": power, "others": others, "flips": flips}


def run_campaign(folder: Path, chosen: argparse.Namespace) -> bool:
    """Try the faults in `folder`, and note each part once it has ended; return whether all trials
    ended as they must."""
    material = Material(folder)
    warm = [material.generate(material.fresh(), format) for format in FORMATS]
    warm += [material.finalize(Path(warm[0][warm[0].index("--out") + 1]))]
    warm += [material.train(material.fresh())]
    warm += [material.evaluate(material.fresh(), material.pair.good)]
    import_what_they_need(warm, material.said)
    if not chosen.only or {"kills", "power", "others"} & {*chosen.only}:
        import_what_they_need([material.experiment(material.fresh())], material.said, fork_stages)
    trials = Trials(material, random.Random(chosen.seed), chosen.most)
    fine = True
    for name, part in parts(trials, chosen.rounds).items():
        if chosen.only and name not in chosen.only:
            continue
        began, used = time.monotonic(), _cpu_seconds()
        tallies = []
        for tally in part():
            print(_line(tally), file=sys.stderr, flush=True)
            tallies.append(tally)
            fine = fine and not tally.wrong
        spent = {"seconds": time.monotonic() - began, "cpu_seconds": _cpu_seconds() - used}
        note(
            chosen,
            name,
            {**{k: round(v) for k, v in spent.items()}, "faults": [*map(_fields, tallies)]},
        )
    return fine


def note(chosen: argparse.Namespace, part: str, figures: dict[str, Any]) -> None:
    """Put the figures of a part into the file, beside those of other parts."""
    found = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
    size = {name: getattr(chosen, name) for name in ("seed", "rounds", "most")}
    content = {**found, part: {**size, **figures}}
    chosen.out.write_text(json.dumps(content, indent=2) + "\n")
    write_page(chosen.out)


def _fields(tally: Tally) -> dict[str, Any]:
    return {
        "fault": tally.fault,
        "tried": tally.tried,
        "outcomes": dict(tally.outcomes.most_common()),
        "wrong": tally.wrong,
        "left_out": tally.left_out,
    }


def _line(tally: Tally) -> str:
    wrong = "".join(f"\n  WRONG {text}" for text in tally.wrong)
    outcomes = tally.left_out or dict(tally.outcomes)
    return f"{_cpu_seconds():6.0f} s  {tally.fault}: {tally.tried} tried, {outcomes}{wrong}"


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200, help="kills at random times")
    parser.add_argument("--most", type=int, help="trials of each list of cases; default: all")
    parser.add_argument("--only", action="append", default=[], help="one part; may be repeated")
    parser.add_argument("--out", type=Path, required=True, help="file of the figures")
    chosen = parser.parse_args()
    memory = Path("/dev/shm")  # where fsync costs nothing: no trial depends on a real disk
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        if not run_campaign(Path(folder), chosen):
            sys.exit("some trials did not end as they must: see WRONG above")


if __name__ == "__main__":
    main()
