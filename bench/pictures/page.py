"""docs/benchmarks.md and its pictures, from the files of bench/results and nothing else.

python -m cdgen.bench.pictures.page                 prints the table
python -m cdgen.bench.pictures.page --write docs    writes the page and the pictures there
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from cdgen.bench.pictures.bars import shortened
from cdgen.bench.pictures.pictures import PICTURES
from cdgen.bench.pictures.result_files import read_folder
from cdgen.bench.pictures.row import Row

RESULTS = Path("bench/results")
NOT_MEASURED = "**Not measured.**"
_HEADINGS = (
    "| op | provider | shape | dtype | metric | p20 | p50 | p80 | unit | ratio | to |",
    "|---|---|---|---|---|--:|--:|--:|---|--:|---|",
)
_INTRODUCTION = """\
# Benchmarks

Written by `make bench-pictures` from the files in `bench/results`; do not edit.

- A file is one run: its contenders took turns on one machine. Compare within a file, by the ratio,
  and not between files.
- p20, p50 and p80 are percentiles of repeated measurements: the extremes if there were fewer than
  five, one number if there was one.
- A ratio above 1 is better than the baseline, whether more or less of the unit is. It is the median
  over the rounds if the file states that, else the ratio of the medians.
- `make bench-check NEW=folder` compares other files with these, by the ratios.
"""


def page(rows: Sequence[Row], drawn: dict[str, bytes | None]) -> str:
    """Return the page; `drawn` has the bytes of each picture by its name."""
    parts = [_INTRODUCTION]
    for picture in PICTURES:
        shown = f"![{picture.title}](pictures/{picture.name}.svg)\n\n"
        text = f"{shown if drawn[picture.name] else f'{NOT_MEASURED} '}{picture.caption}"
        parts.append(f"## {picture.title}\n{text}\n")
    return "\n".join([*parts, f"## The numbers\n{table(rows)}\n"])


def table(rows: Sequence[Row]) -> str:
    """Return a table for each file, below its machine, versions and commit."""
    parts = []
    for file, found in groupby(rows, attrgetter("file")):
        of_file = list(found)
        first = of_file[0]
        commit = f"; commit {first.commit}" if first.commit else ""
        about = f"{first.hardware}; {first.versions}{commit}"
        parts.append("\n".join([f"### {file}", f"{about}", "", *_HEADINGS, *map(_line, of_file)]))
    return "\n\n".join(parts)


def _line(row: Row) -> str:
    numbers = [shortened(number) for number in (row.p20, row.p50, row.p80)]
    ratio = "" if row.ratio is None else shortened(row.ratio)
    cells = (
        *(row.op, row.provider, row.shape, row.dtype, row.metric),
        *numbers,
        *(row.unit, ratio, row.baseline),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="DOCS")
    args = parser.parse_args()
    rows = read_folder(RESULTS)
    print(table(rows))
    if args.write:
        write(rows, args.write)


def write(rows: Sequence[Row], docs: Path) -> None:
    """Write the page and its pictures, and delete the pictures of what is no longer measured."""
    drawn = {picture.name: picture.draw(rows) for picture in PICTURES}
    folder = docs / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in drawn.items():
        if svg is None:
            (folder / f"{name}.svg").unlink(missing_ok=True)
        else:
            (folder / f"{name}.svg").write_bytes(svg)
    (docs / "benchmarks.md").write_text(page(rows, drawn))


if __name__ == "__main__":
    main()
