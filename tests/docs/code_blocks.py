"""The code blocks of the documentation: which there are, how one is run, what it printed.

    python tests/docs/code_blocks.py docs/commands/status.md ...

runs the blocks of pages, with the pages that they need, and writes what they print into the
`output` blocks below them. A comment above a block says how it is treated:

    <!-- not run: REASON -->    it is never run
    <!-- thorough -->           it is run by `make test-thorough` and CI only
    <!-- numbers vary -->       above an `output` block: only what is no number is compared
    <!-- an example -->         above an `output` block: it is not compared
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
RUN = ("bash", "python")
SHOWN = ("output", "yaml", "text")
# What a block finds in its folder, as in a checkout.
_LINKS = ("assets", "recipes")
_SET_BY_TESTS = ("TRITON_INTERPRET", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS")  # in conftest.py
_BETWEEN = "\x1e"  # between the outputs of two blocks
# Where pages use what other pages made: a page, and those that run before it in the same folder.
NEEDS = {
    "docs/commands/status.md": ("docs/quick-start.md",),
    "docs/commands/verify.md": ("docs/quick-start.md",),
    "docs/commands/finalize.md": ("docs/quick-start.md",),
    "docs/commands/inspect.md": ("docs/quick-start.md",),
    "docs/commands/measure.md": ("docs/quick-start.md",),
    "docs/commands/report.md": ("docs/quick-start.md",),
    "docs/commands/eval.md": ("docs/commands/train.md",),
    "docs/commands/compare.md": ("docs/commands/train.md", "docs/commands/eval.md"),
}
_COMMENT = re.compile(r"<!-- (not run: .+|thorough|numbers vary|an example) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str  # from the root of the repository
    line: int  # of its fence, from 1
    language: str  # the first word after the fence, "" if there is none
    text: str
    mark: str  # what the comment above it says, "" if there is none

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_run(self) -> bool:
        return self.language in RUN and not self.mark.startswith("not run")


def pages() -> list[str]:
    """Return the pages whose blocks count, from the root of the repository: not those that a run
    of an experiment wrote."""
    found = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))]
    return ["README.md", *(page for page in found if not page.startswith("docs/results/"))]


def blocks_of(page: str) -> list[Block]:
    found, mark = [], ""
    for token in MarkdownIt().parse((ROOT / page).read_text()):
        if token.type == "fence":
            assert token.map is not None
            language = token.info.split()[0] if token.info.strip() else ""
            found.append(Block(page, token.map[0] + 1, language, token.content, mark))
        comment = _COMMENT.fullmatch(token.content.strip()) if token.type == "html_block" else None
        mark = comment[1] if comment else ""
    return found


class Workplace:
    """The folders in which the blocks of pages are run, each page once: those of a page and of the
    pages that it needs share one."""

    def __init__(self, folder: Path, thorough: bool, data: Path | None) -> None:
        self._folder, self._thorough, self._data = folder, thorough, data
        self._printed: dict[str, dict[int, str]] = {}  # by page and line

    def run(self, page: str) -> dict[int, str]:
        """Return what the blocks of a page printed, by line. Raises AssertionError if one fails."""
        if page not in self._printed:
            for needed in NEEDS.get(page, ()):
                self.run(needed)
            folder, found = self._folder_of(page), dict[int, str]()
            can_run = filter(self._can_run, blocks_of(page))
            for language, run in groupby(can_run, attrgetter("language")):
                blocks = list(run)
                printed = run_blocks(language, blocks, folder)
                found |= {b.line: text for b, text in zip(blocks, printed, strict=True)}
            self._printed[page] = found
        return self._printed[page]

    def _folder_of(self, page: str) -> Path:
        """Return the folder of a page, made like the root of a checkout."""
        first = NEEDS.get(page, (page,))[0]
        folder = self._folder / first.replace("/", "-")
        if not folder.exists():
            folder.mkdir()
            for name in _LINKS:
                (folder / name).symlink_to(ROOT / name)
            if self._data is not None:
                (folder / "DATA").symlink_to(self._data)
        return folder

    def _can_run(self, block: Block) -> bool:
        has_data = self._data is not None or "DATA" not in block.text
        return block.is_run and has_data and (self._thorough or block.mark != "thorough")


def run_blocks(language: str, blocks: list[Block], folder: Path) -> list[str]:
    """Run blocks of one language that follow each other and return what each printed. Blocks of
    Python share a process, and so their names. Raises AssertionError if one fails."""
    if language == "bash":
        return [_run_bash(block, folder) for block in blocks]
    program = f"\nprint({_BETWEEN!r}, flush=True)\n".join(block.text for block in blocks)
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=_environment(folder),
        capture_output=True,
        text=True,
    )
    printed = run.stdout.split(f"{_BETWEEN}\n")
    failed = blocks[len(printed) - 1].place
    assert run.returncode == 0, f"{failed}: exit code {run.returncode}\n{run.stdout}{run.stderr}"
    return printed


def _run_bash(block: Block, folder: Path) -> str:
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=folder,
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.returncode == 0, f"{block.place}: exit code {run.returncode}\n{run.stdout}"
    return run.stdout


def _environment(folder: Path) -> dict[str, str]:
    """Return what a user's shell has: the commands, and none of the tests' settings."""
    user = {name: value for name, value in os.environ.items() if name not in _SET_BY_TESTS}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**user, "PATH": path, "COLUMNS": "100", "HF_HOME": str(folder / ".hf")}


def shown_outputs(page: str) -> list[tuple[int, Block]]:
    """Return each `output` block of a page with the line of the block whose output it shows."""
    found, line = [], 0
    for block in blocks_of(page):
        if block.language == "output":
            found.append((line, block))
        elif block.language in RUN:
            line = block.line
    return found


def differences(shown: Block, printed: str) -> str:
    """Return what is shown and what was printed if they differ, else an empty string.

    A line `...` stands for any number of lines. Blanks at the ends of lines do not count.
    """
    texts = [_comparable(text, shown.mark) for text in (shown.text, printed)]
    pattern = r"(?:.*\n)*?".join(map(re.escape, re.split(r"^\.\.\.\n", texts[0], flags=re.M)))
    if shown.mark == "an example" or re.fullmatch(pattern, texts[1]):
        return ""
    return f"{shown.place}: shown:\n{shown.text}\nprinted:\n{printed}"


def _comparable(text: str, mark: str) -> str:
    lines = [line.rstrip() for line in text.strip("\n").splitlines()]
    joined = "".join(f"{line}\n" for line in lines)
    if mark != "numbers vary":
        return joined
    return re.sub(r" *\d[\d,.]*", " #", re.sub(r"\b[0-9a-f]{12}", "#", joined))


def write_outputs(page: str, workplace: Workplace) -> None:
    """Put what the blocks of a page print into its `output` blocks: those that are empty, and those
    that are compared and not shortened."""
    printed, lines = workplace.run(page), (ROOT / page).read_text().splitlines(keepends=True)
    for line, shown in reversed(shown_outputs(page)):
        kept = shown.text and ("...\n" in shown.text or shown.mark == "an example")
        if line in printed and not kept:
            end = shown.line + len(shown.text.splitlines())
            text = [f"{one.rstrip()}\n" for one in printed[line].strip("\n").splitlines()]
            lines[shown.line : end] = text
    (ROOT / page).write_text("".join(lines))


def main() -> None:
    data = ROOT.parent / "shared/data"
    with TemporaryDirectory() as folder:
        workplace = Workplace(Path(folder), True, data if data.is_dir() else None)
        for page in sys.argv[1:]:
            write_outputs(page, workplace)


if __name__ == "__main__":
    main()
