"""make fuzz MINUTES=10: let atheris search for files that are neither used nor cleanly refused.

Each target of fuzz_targets.py runs for that long in a process of its own. What it finds lies in
build/fuzz/TARGET, and goes into test_findings.py with its repair. docs/fuzz.json and the table of
docs/fuzz.md say what was run. Needs `pip install atheris`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import resource
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FunctionType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests" / folder) for folder in ("fuzz", "cdgen")]
LOG, PAGE = ROOT / "docs/fuzz.json", ROOT / "docs/fuzz.md"
WORK = ROOT / "build/fuzz"
_BEGIN, _END = "<!-- table: make fuzz writes it -->", "<!-- end of table -->"
_LIMITS = ("-max_len=2048", "-timeout=120", "-rss_limit_mb=6144", "-print_final_stats=1")


def fuzz(target: str, folder: Path, seconds: int) -> None:
    """Search until the time is over or something is found. Never returns."""
    import atheris
    from fuzz_targets import TARGETS, seeds

    place = TemporaryDirectory()
    case = TARGETS[target](Path(place.name))
    for seed in seeds(target):  # imports everything, transformers too, before the time counts
        case(seed)
    functions = (one for one in gc.get_objects() if isinstance(one, FunctionType))
    for function in functions:  # atheris's import hook does not see into an editable package
        if str(function.__module__).startswith("cdgen."):
            atheris.instrument_func(function)
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        (corpus / f"seed-{number}").write_bytes(seed)

    def one(data: bytes) -> None:
        # A finding ends the process as an exception does; a panic of Rust code passes for none.
        try:
            case(data)
        except Exception:
            raise
        except BaseException as error:
            raise RuntimeError(f"not an Exception: {type(error).__name__}: {error}") from error

    found = f"-artifact_prefix={folder}/"
    atheris.Setup([target, *_LIMITS, found, f"-max_total_time={seconds}", str(corpus)], one)
    atheris.Fuzz()


def run(target: str, seconds: int) -> dict[str, Any]:
    """Fuzz a target in a process; return its line of the log."""
    folder = WORK / target.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    known = _artifacts(folder)
    began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with (folder / "log").open("wb") as log:
        program = [sys.executable, __file__, "--target", target, "--seconds", str(seconds)]
        process = subprocess.run(program, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
    text = (folder / "log").read_text(errors="replace")
    tried = re.findall(r"stat::number_of_executed_units: (\d+)", text)
    reached = re.findall(r" cov: (\d+)", text)
    later = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = later.ru_utime + later.ru_stime - used.ru_utime - used.ru_stime
    new = sorted(_artifacts(folder) - known)
    return {
        "target": target,
        "executions": int(tried[-1]) if tried else 0,
        "branches": int(reached[-1]) if reached else 0,
        "minutes": round((time.monotonic() - began) / 60, 2),
        "cpu_minutes": round(cpu / 60, 2),
        "findings": new,
        "exit_code": process.returncode,
    }


def _artifacts(folder: Path) -> set[str]:
    kinds = ("crash", "timeout", "oom")  # and not slow units, which an occupied machine makes
    return {path.name for kind in kinds for path in folder.glob(f"{kind}-*")}


def write_log(lines: list[dict[str, Any]]) -> None:
    """Write the log and its table; the lines of targets that were not run now are kept."""
    before = json.loads(LOG.read_text())["targets"] if LOG.exists() else []
    done = {line["target"] for line in lines}
    lines = sorted([*(b for b in before if b["target"] not in done), *lines], key=_order)
    about = {"date": str(date.today()), "atheris": version("atheris"), "machine": _machine()}
    LOG.write_text(json.dumps({**about, "targets": lines}, indent=2) + "\n")
    rows = [
        f"| {line['target']} | {line['executions']:,} | {line['branches']:,}"
        f" | {line['minutes']:.1f} | {60 * line['cpu_minutes']:.0f} | {len(line['findings'])} |"
        for line in lines
    ]
    head = "| file | cases tried | branches reached | minutes | CPU seconds | findings |"
    note = f"{about['date']}, atheris {about['atheris']}, {about['machine']}."
    table = "\n".join([_BEGIN, head, "|---|--:|--:|--:|--:|--:|", *rows, "", note, _END])
    page = PAGE.read_text()
    PAGE.write_text(re.sub(f"{_BEGIN}.*{_END}", lambda _: table, page, flags=re.DOTALL))


def _order(line: dict[str, Any]) -> int:
    from fuzz_targets import TARGETS

    return [*TARGETS].index(line["target"])


def _machine() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return (
        f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else 'an unknown processor'}"
    )


def main() -> None:
    from fuzz_targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target")
    parser.add_argument("--only", action="append", choices=TARGETS, help="leave out the others")
    parser.add_argument("--target", choices=TARGETS, help=argparse.SUPPRESS)  # of one process
    parser.add_argument("--seconds", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.target:
        fuzz(options.target, WORK / options.target.replace(" ", "-"), options.seconds)
    found = 0
    for target in options.only or TARGETS:
        line = run(target, round(60 * options.minutes))
        print(json.dumps(line), flush=True)
        write_log([line])
        found += len(line["findings"]) or line["exit_code"] != 0
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
