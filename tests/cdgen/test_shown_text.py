"""Text of models and data is shown, never obeyed: by a terminal, in Markdown, in the card."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_corpus import begin, fill

from cdgen.corpus.finalize import finalize
from cdgen.corpus.model_names import ModelName, ModelNames
from cdgen.eval.report.display import Display
from cdgen.experiment.stages import Stage
from cdgen.experiment.view import View
from cdgen.progress import TerminalDisplay
from cdgen.shown_text import as_code, in_markdown, protect_terminal, shown

ESCAPE = "\x1b]52;c;cm0K\x07\x1b[31m"  # writes to the clipboard, then turns red
SENT = "\x1b]52"  # how it begins; `rich` would leave out some of the rest
ESCAPED = "\\u001b]52;c;cm0K\\u0007\\u001b[31m"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ESCAPE, ESCAPED),
        ("all is well\rcdgen: no", "all is well\\u000dcdgen: no"),
        ("\x9b31m", "\\u009b31m"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("\udcff.txt", "\\udcff.txt"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\u05e9\u200f \u0b95\u200d \U0001f600 é", "\u05e9\u200f \u0b95\u200d \U0001f600 é"),
    ],
    ids=["escape", "return", "C1", "order", "not UTF-8", "lines", "scripts"],
)
def test_what_would_be_obeyed_is_shown(text: str, expected: str) -> None:
    assert shown(text) == expected == shown(expected)


def test_shown_json_stays_the_same_json() -> None:
    value = {"text": f"{ESCAPE}\x85\u2028"}
    assert json.loads(shown(json.dumps(value, ensure_ascii=False))) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[x](javascript:alert(1))", "\\[x\\](javascript:alert(1))"),
        ("a|b\nc `d` \\", "a\\|b c \\`d\\` \\\\"),
        ("<img onerror=x> &lt; R&D", "&lt;img onerror=x> &amp;lt; R&D"),
        ("blimp_filtered", "blimp_filtered"),
    ],
)
def test_markdown_keeps_text_as_text(text: str, expected: str) -> None:
    assert in_markdown(text) == expected


def test_code_in_a_table_ends_where_it_should() -> None:
    assert as_code(f"a`|b\n{ESCAPE}") == f"`a'/b {ESCAPED}`"


PRINTS = f"""
import logging, sys, warnings
from cdgen.cli.app import execute
from cdgen.errors import UsageError
def command():
    text = {ESCAPE!r}
    print(text)
    print(text, file=sys.stderr)
    warnings.warn(text)
    logging.getLogger("a library").error(text)
    raise {{error}}(text)
execute(command)
"""


@pytest.mark.parametrize(
    ("error", "code"), [("UsageError", 2), ("RuntimeError", 1)], ids=["expected", "unexpected"]
)
@pytest.mark.parametrize("debug", [(), ("--debug",)], ids=["lines", "traceback"])
def test_no_command_sends_a_control_character(
    error: str, code: int, debug: tuple[str, ...]
) -> None:
    program = [sys.executable, "-c", PRINTS.replace("{error}", error), *debug]
    ended = subprocess.run(program, capture_output=True, text=True)
    assert ended.returncode == code
    assert ended.stdout == f"{ESCAPED}\n"
    assert "\x1b" not in ended.stderr and "\x07" not in ended.stderr
    assert ended.stderr.count(ESCAPED) >= 4


def test_the_name_of_a_file_is_no_command(cdgen: Callable[..., Any], tmp_path: Path) -> None:
    ended = cdgen("verify", tmp_path / ESCAPE)
    assert ended.code == 2
    assert ESCAPED in ended.err and "\x1b" not in ended.err


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    """Let live views draw on a terminal that keeps what it is sent."""
    console = Console(file=io.StringIO(), force_terminal=True, width=150, color_system=None)
    for module in ("cdgen.experiment.view", "cdgen.eval.report.display"):
        monkeypatch.setattr(f"{module}.terminal_console", lambda: console)
    return console


def drawn(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_stages_log_is_no_command_in_the_live_view(terminal: Console) -> None:
    stage = Stage("base", ("status", "nowhere"), (), Path("base"), lambda: False)
    view = View([stage], lambda _: f"loss {ESCAPE}")
    with view:
        view.began(stage)
        view.show([stage], set(), {})
        view.ended(stage, 4, 1.0)
    in_table_and_line = drawn(terminal).count(f"loss {ESCAPED}")
    assert in_table_and_line >= 2 and SENT not in drawn(terminal)


def test_the_name_of_a_task_is_neither_markup_nor_command(terminal: Console) -> None:
    name = f"blimp_[link=https://evil.example]a[/link]{ESCAPE}"
    with Display(1) as display:
        display.begin(f"model-{name}", 0, 1)
        display.task(name)(1, 2)
    assert f"model-{shown(name)}" in drawn(terminal)
    assert "\x1b]8;" not in drawn(terminal) and SENT not in drawn(terminal)


def test_what_others_print_during_a_live_view_is_shown(terminal: Console) -> None:
    from rich.live import Live

    class Screen(TerminalDisplay):
        screen = Live("at work", console=terminal, auto_refresh=False)

    before = sys.stdout, sys.stderr
    with Screen():
        print(f"a note: \x1b]8;;https://evil.example\x1b\\{ESCAPE}")
    assert (sys.stdout, sys.stderr) == before
    assert "a note: \\u001b]8;;https" in drawn(terminal).replace("\n", "")
    assert "\x1b]8;" not in drawn(terminal) and SENT not in drawn(terminal)


def test_protection_is_put_on_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    protect_terminal()
    once = sys.stdout
    protect_terminal()
    assert sys.stdout is once
    print("a", ESCAPE)
    assert stream.getvalue() == f"a {ESCAPED}\n"


def test_the_card_of_a_corpus_shows_names_as_text(tmp_path: Path) -> None:
    names = ModelNames(good=ModelName(name=f"x`[a](javascript:b)|<b>\n# {ESCAPE}"))
    device = "<script>|[a](b)"
    folder = begin(tmp_path / "out", names, device=device, cdgen_version="1.0 <i>")
    fill(folder)
    finalize(folder.out)
    card = folder.card.read_text()
    assert f"| GOOD | `x'[a](javascript:b)/<b> # {ESCAPED}`, sha256 `" in card
    assert "| computed in | float32 on &lt;script>\\|\\[a\\](b) |" in card
    assert "cdgen 1.0 &lt;i>." in card
