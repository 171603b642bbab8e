"""Every code block of README and docs/ runs and prints what is shown below it, or says why it is
not run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from code_blocks import (
    ROOT,
    RUN,
    SHOWN,
    Block,
    Workplace,
    blocks_of,
    differences,
    pages,
    run_blocks,
    shown_outputs,
)

# A page is a chain of commands, and other processes may hold the cores.
pytestmark = pytest.mark.timeout(900)

PAGES = [page for page in pages() if any(block.language in RUN for block in blocks_of(page))]
BLOCKS = [block for page in pages() for block in blocks_of(page) if block.language[:1] != "{"]
_REASONS = (
    "sets up a fresh clone",
    "needs a GPU",
    "needs a cluster",
    "needs more machines",
    "takes ",
)
_MOST_NOT_RUN = 16
_DATA = ROOT.parent / "shared/data"


def case_of(page: str) -> Any:
    """Return a page as a test case. CI runs them all, `make test` what README has for a start."""
    return pytest.param(page, marks=[] if page == "README.md" else pytest.mark.thorough)


@pytest.fixture(scope="module")
def workplace(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workplace]:
    folder = tmp_path_factory.mktemp("pages")
    data = _DATA if _DATA.is_dir() else None
    yield Workplace(folder, request.config.getoption("--thorough"), data)


@pytest.mark.parametrize("page", [case_of(page) for page in PAGES])
def test_a_page_prints_what_it_shows(workplace: Workplace, page: str) -> None:
    printed = workplace.run(page)
    found = [
        differences(shown, printed[line]) for line, shown in shown_outputs(page) if line in printed
    ]
    assert not any(found), "\n".join(found)


def test_every_block_is_run_or_says_why_not() -> None:
    unknown = [block.place for block in BLOCKS if block.language not in RUN + SHOWN]
    assert not unknown, f"expected one of {RUN + SHOWN} after the fence"
    not_run = [block for block in BLOCKS if block.mark.startswith("not run")]
    for block in not_run:
        reason = block.mark.removeprefix("not run: ")
        assert reason.startswith(_REASONS), f"{block.place}: {reason} is no reason"
    assert len(not_run) <= _MOST_NOT_RUN


def test_shown_blocks_hide_no_commands() -> None:
    for block in BLOCKS:
        if block.language == "text":
            first = {line.split()[0] for line in block.text.splitlines() if line.strip()}
            assert not first & {"$", "cdgen", "make", "pip", "python", "import", "from"}, (
                block.place
            )
        elif block.language == "yaml":
            assert yaml.safe_load(block.text), block.place


@pytest.mark.parametrize(
    ("shown", "printed", "mark", "same"),
    [
        ("a 1\n", "a 1\n", "", True),
        ("a 1\n", "a 2\n", "", False),
        ("a 1\n", "a 2,000.5\n", "numbers vary", True),
        ("a 1\n", "b 1\n", "numbers vary", False),
        ("a\n...\nz\n", "a\nb\nc\nz\n", "", True),
        ("a\n...\n", "a\n", "", True),
        ("...\nz\n", "a\n", "", False),
        ("a  \n", "a\n", "", True),
    ],
)
def test_outputs_are_compared(shown: str, printed: str, mark: str, same: bool) -> None:
    block = Block("page.md", 1, "output", shown, mark)
    assert (not differences(block, printed)) is same


def test_a_failing_block_is_named(tmp_path: Path) -> None:
    block = Block("page.md", 7, "bash", "exit 3\n", "")
    with pytest.raises(AssertionError, match=r"page\.md:7: exit code 3"):
        run_blocks("bash", [block], tmp_path)


def test_blocks_of_python_share_their_names(tmp_path: Path) -> None:
    texts = ("x = 1\nprint('a')\n", "print(x)\n", "y\n")
    blocks = [Block("page.md", line, "python", text, "") for line, text in enumerate(texts, 1)]
    assert run_blocks("python", blocks[:2], tmp_path) == ["a\n", "1\n"]
    with pytest.raises(AssertionError, match=r"page\.md:3: exit code 1"):
        run_blocks("python", blocks, tmp_path)
