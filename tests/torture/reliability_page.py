"""docs/reliability.md: its table, from the figures of a campaign."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures of make torture -->", "<!-- end of the figures -->"


def write_page(figures: Path) -> None:
    """Replace the table of the page beside `figures`, if there is one."""
    page = figures.with_suffix(".md")
    if page.exists():
        before, _, rest = page.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{BEGIN}\n{table(figures)}\n{END}{after}")


def table(figures: Path) -> str:
    """Return the table, part by part, with what makes it again."""
    lines = []
    for name, part in json.loads(figures.read_text()).items():
        most = f" --most {part['most']}" if part["most"] else ""
        size = f"--seed {part['seed']} --rounds {part['rounds']}{most}"
        total = sum(fault["tried"] for fault in part["faults"])
        wrong = sum(len(fault["wrong"]) for fault in part["faults"])
        lines += [
            f"**`--only {name} {size}`**: {total:,} trials, of which {wrong} did not end as they"
            f" must; {part['cpu_seconds']} s of CPU time.",
            "",
            "| fault | times tried | outcome |",
            "|---|---|---|",
            *map(_row, part["faults"]),
            "",
        ]
    return "\n".join(lines).rstrip()


def _row(fault: dict[str, Any]) -> str:
    outcomes = [f"{times:,} x {outcome}" for outcome, times in fault["outcomes"].items()]
    if fault["wrong"]:
        outcomes.append(f"**{len(fault['wrong'])} x wrong**")
    if fault["left_out"]:
        outcomes.append(f"not tried: {fault['left_out']}")
    return f"| {fault['fault']} | {fault['tried']:,} | {'; '.join(outcomes)} |"
