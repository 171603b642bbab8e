"""`cdgen inspect`: a text and a row, in the terminal, as JSON and as a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from tiny_pair import PairFolders

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "w5 w9 w40 w3 w3 w17 w20"


@pytest.fixture
def inspect(cdgen: Callable[..., Any], tiny_pair: PairFolders) -> Callable[..., Any]:
    """Run `cdgen inspect` with the tiny GOOD, and its BAD unless another is named."""

    def run(*arguments: object, bad: object = tiny_pair.bad) -> Any:
        return cdgen("inspect", "--good", tiny_pair.good, "--bad", bad, *arguments)

    return run


@pytest.fixture
def corpus(
    cdgen: Callable[..., Any], tiny_pair: PairFolders, prompts: Path, tmp_path: Path
) -> Path:
    out = tmp_path / "corpus"
    pair = ("--good", tiny_pair.good, "--bad", tiny_pair.bad)
    sizes = ("--max-new-tokens", 12, "--num-sequences", 2, "--prompt-tokens", 4)
    assert cdgen("generate", *pair, "--prompts", prompts, "--out", out, *sizes).code == 0
    return out


@pytest.mark.parametrize("bad", ["folder", "layers:1", "window:2", "dropout:0.4", "none"])
def test_every_kind_of_bad(inspect: Callable[..., Any], tiny_pair: PairFolders, bad: str) -> None:
    named = tiny_pair.bad if bad == "folder" else bad
    ended = inspect(TEXT, "--json", bad=named)
    assert ended.code == 0, ended.err
    facts = json.loads(ended.out)
    assert [p["token"]["text"] for p in facts["positions"]] == TEXT.split()
    assert facts["first_token"] == {"id": 0, "text": "<s>"}
    assert facts["models"].get("BAD") == (None if bad == "none" else str(named))
    for position in facts["positions"]:
        assert (position["bad_logprob"] is None) == (bad == "none")
        assert (position["drawn"]["cd"] is None) == (bad == "none")


def test_the_terminal_shows_text_marks_and_table(inspect: Callable[..., Any]) -> None:
    ended = inspect(TEXT, "--table", "--alpha", 0.2, "--top-k", 5)
    assert ended.code == 0, ended.err
    assert "contrast 1.0, alpha 0.2, temperature 1.0, top_k 5, seed 0" in ended.out
    assert "# GOOD prefers it by 2 nats or more" in ended.out
    rows = re.findall(r"^ *(\d) (w\d+) +-\d+\.\d\d +-\d+\.\d\d +[+-]\d+\.\d\d ", ended.out, re.M)
    assert rows == [(str(i), word) for i, word in enumerate(TEXT.split(), start=1)]
    assert "\x1b" not in ended.out  # no terminal, no colours
    assert all(len(line) <= 80 for line in ended.out.splitlines()[2:])


def test_the_settings_decide_the_draws(inspect: Callable[..., Any]) -> None:
    found = [
        [
            position["drawn"]
            for position in json.loads(inspect(TEXT, "--json", *more).out)["positions"]
        ]
        for more in ((), ("--seed", 1), ("--temperature", 0), ("--temperature", 0, "--seed", 1))
    ]
    assert found[0] != found[1] and found[2] == found[3]
    for drawn in found[2]:  # greedy: the most probable token, whatever the mask
        assert drawn["vanilla"] == drawn["plausible"]


def test_a_row_of_a_corpus(inspect: Callable[..., Any], corpus: Path) -> None:
    ended = inspect(corpus, "--row", 3)
    assert ended.code == 0, ended.err
    assert "Prompt\n<s>" in ended.out and "\nContinuation\n" in ended.out
    assert "CD 100%" in ended.out
    facts = json.loads(inspect(corpus, "--row", 3, "--json").out)
    assert facts["settings"]["sequence"] == 3
    own = [p for p in facts["positions"] if p["index"] >= facts["prompt_tokens"]]
    assert own and all(p["drawn"]["cd"] == p["token"] for p in own)


def test_the_pair_file_names_the_models(
    cdgen: Callable[..., Any], tiny_pair: PairFolders, tmp_path: Path
) -> None:
    pair = tmp_path / "pair.yaml"
    pair.write_text(f"good: {tiny_pair.good}\nbad: {tiny_pair.bad}\n")
    facts = json.loads(cdgen("inspect", "--pair", pair, TEXT, "--json").out)
    assert facts["models"] == {"GOOD": str(tiny_pair.good), "BAD": str(tiny_pair.bad)}
    other = json.loads(cdgen("inspect", "--pair", pair, "--bad", "layers:1", TEXT, "--json").out)
    assert other["models"]["BAD"] == "layers:1"


def test_the_page_holds_everything_and_obeys_nothing(
    inspect: Callable[..., Any], corpus: Path, tmp_path: Path
) -> None:
    hostile = tmp_path / "<img src=x onerror=alert(1)>"
    corpus.rename(hostile)
    page = tmp_path / "pages/row.html"
    ended = inspect(hostile, "--row", 3, "--html", page)
    assert ended.code == 0, ended.err
    assert ended.out.endswith(f"{page}\n")
    html = page.read_text()
    assert "<script" not in html and "<img" not in html
    assert "http:" not in html and "https:" not in html
    facts = json.loads(inspect(hostile, "--row", 3, "--json").out)
    heads = re.findall(r'<th scope="row"><small>(\d+)</small> (.*?)</th>', html)
    texts = [position["token"]["text"] for position in facts["positions"]]
    assert [(int(index), unescape(token)) for index, token in heads] == [*enumerate(texts, 1)]
    spans = "".join(re.findall(r"<span[^>]*>(.*?)</span>", html.partition("</h3>")[2]))
    assert unescape(spans) == "".join(["<s>", *texts])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("w5",), 0, ""),
        (("",), 2, "no token that follows another"),
        ((" ".join(["w5"] * 64),), 2, "longer than the context of the pair, 64 tokens"),
        ((TEXT, "--alpha", 2), 2, "--alpha: input should be less than or equal to 1"),
        ((TEXT, "--bad", "layers:2"), 2, "layers:2: expected 1 to 1 of GOOD's 2 layers"),
        ((TEXT, "--good", "nowhere"), 4, "nowhere"),
        (("{corpus}",), 2, "is a corpus: say which of its rows with --row N"),
        (("{corpus}", "--row", 10), 2, "has the sequences 0 to 9, got 10"),
        (("{corpus}", "--row", 0, "--seed", 1), 2, "--seed: not with --row"),
        (("{corpus}", "--row", 0, "--bad", "layers:1"), 3, "was written by other models: BAD"),
        (("{corpus}/..", "--row", 0), 2, "holds no cdgen corpus"),
    ],
)
def test_refusals_say_what_to_do(
    inspect: Callable[..., Any], corpus: Path, arguments: Any, code: int, says: str
) -> None:
    ended = inspect(*(str(argument).replace("{corpus}", str(corpus)) for argument in arguments))
    assert (ended.code, says in ended.err) == (code, True), ended.err


def test_good_must_be_named(cdgen: Callable[..., Any]) -> None:
    ended = cdgen("inspect", TEXT)
    assert ended.code == 2 and "--good is missing: give the checkpoint folder" in ended.err
