"""The values that `--bad` accepts, and the text that a plan records for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdgen.checkpoints.bad_source import BadSource, parse_bad
from cdgen.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", BadSource("none")),
        ("dropout:0.5", BadSource("dropout", dropout=0.5)),
        ("dropout:1e-3", BadSource("dropout", dropout=0.001)),
        ("layers:8", BadSource("layers", layers=8)),
        ("window:64", BadSource("window", window=64)),
        ("models/bad", BadSource("folder", folder=Path("models/bad"))),
        ("./none", BadSource("folder", folder=Path("none"))),
        ("./dropout:0.5", BadSource("folder", folder=Path("dropout:0.5"))),
        ("./layers:8", BadSource("folder", folder=Path("layers:8"))),
        ("./window:8", BadSource("folder", folder=Path("window:8"))),
        ("dropout-run", BadSource("folder", folder=Path("dropout-run"))),
    ],
)
def test_parse_bad(text: str, expected: BadSource) -> None:
    assert parse_bad(text) == expected


@pytest.mark.parametrize("rate", ["", ":", ":0", ":1", ":1.5", ":-0.5", ":nan", ":inf", ":half"])
def test_a_rate_outside_zero_to_one_is_refused(rate: str) -> None:
    with pytest.raises(UsageError, match="expected dropout:P with P between 0 and 1") as caught:
        parse_bad(f"dropout{rate}")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("kind", ["layers", "window"])
@pytest.mark.parametrize("count", ["", ":", ":0", ":-1", ":1.5", ":all", ":\u0662"])
def test_a_number_of_layers_or_tokens_below_one_is_refused(kind: str, count: str) -> None:
    with pytest.raises(UsageError, match=f"expected {kind}:N with N of 1 or more") as caught:
        parse_bad(f"{kind}{count}")
    assert caught.value.exit_code == 2


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(UsageError, match="--bad is empty"):
        parse_bad("")


@pytest.mark.parametrize(
    ("text", "recorded"),
    [
        ("none", "none"),
        ("dropout:0.5", "dropout:0.5"),
        ("dropout:.50", "dropout:0.5"),
        ("layers:08", "layers:8"),
        ("window:064", "window:64"),
    ],
)
def test_a_plan_records_a_bad_without_a_checkpoint_by_its_kind(text: str, recorded: str) -> None:
    """These texts are in finished corpora, so they must stay the same."""
    assert parse_bad(text).plan_text(None) == recorded


def test_a_plan_records_a_checkpoint_by_its_hash() -> None:
    assert parse_bad("models/bad").plan_text("0123abcd") == "0123abcd"
