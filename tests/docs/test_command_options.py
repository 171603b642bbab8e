"""The pages of the commands list the options that the commands have."""

from __future__ import annotations

import pytest
from command_options import PAGES, commands, options_table, with_options


@pytest.mark.parametrize("name", commands())
def test_a_page_lists_the_options_of_its_command(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text()
    table = options_table(name, commands()[name])
    assert page == with_options(page, table), "make docs-options writes the table"


def test_every_page_is_of_a_command() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == set(commands())
