"""What is printed: colours on a terminal, the same facts without them, numbers that are none."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny_pair import PairFolders

from cdgen.inspection.facts import facts_of
from cdgen.inspection.inspected import Inspected, inspect_text
from cdgen.inspection.page import write_page
from cdgen.inspection.positions import DrawnTokens
from cdgen.inspection.terminal import print_inspected

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def found(tiny_pair: PairFolders) -> Inspected:
    flags = {"good": tiny_pair.good, "bad": str(tiny_pair.bad)}
    return inspect_text(" ".join(f"w{2 + 7 * i % 46}" for i in range(40)), flags)


def printed(found: Inspected, with_table: bool = False, width: int = 80, **console: Any) -> str:
    stream = io.StringIO()
    print_inspected(found, Console(file=stream, width=width, **console), with_table)
    return stream.getvalue()


def test_colours_are_for_terminals_and_add_nothing(
    found: Inspected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal: dict[str, Any] = {"force_terminal": True, "color_system": "truecolor"}
    coloured = printed(found, True, **terminal)
    for background in ("125;184;245", "207;228;251", "251;224;189", "243;171;87"):
        assert f"48;2;{background}m" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "48;2;" not in printed(found, True, **terminal)
    plain = printed(found, True)
    assert "\x1b" not in plain
    marks = [line for line in plain.splitlines() if line and set(line) <= set("#+-= ")]
    assert marks and {mark for line in marks for mark in line} == set("#+-= ")


def test_the_prompt_stands_apart(found: Inspected) -> None:
    text = printed(replace(found, sequence=replace(found.sequence, prompt_tokens=9)))
    assert text.index("Prompt\n<s>") < text.index("\nContinuation\n")
    assert "32 tokens, means in nats" in text
    whole = replace(found.sequence, prompt_tokens=len(found.sequence.tokens))
    assert "Nothing follows the prompt" in printed(replace(found, sequence=whole))


def test_logits_that_cannot_be_sampled(found: Inspected, tmp_path: Path) -> None:
    nan, nothing = float("nan"), DrawnTokens(None, None, None)
    broken = [
        replace(record, good_logprob=nan, bad_logprob=nan, entropy=nan, drawn=nothing)
        for record in found.positions
    ]
    text = printed(replace(found, positions=broken), True)
    assert "GOOD nan" in text and " ? " in text
    facts = json.loads(json.dumps(facts_of(replace(found, positions=broken)), allow_nan=False))
    for position in facts["positions"]:
        assert position["good_logprob"] is position["difference"] is None
        assert position["drawn"] == {"vanilla": None, "plausible": None, "cd": None}
    write_page(replace(found, positions=broken), tmp_path / "page.html")


def test_no_number_is_cut_on_a_narrow_terminal(found: Inspected) -> None:
    text, narrow = (printed(found, True, width) for width in (80, 40))
    assert "…" not in narrow
    assert text[text.index("at token") :] == narrow[narrow.index("at token") :]
    wide = printed(found, width=300).splitlines()
    assert 80 < max(map(len, wide[3:])) <= 100
