"""The plausible sets of a corpus, measured again, are those that it was drawn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from cdgen.cli.demo import ASSETS
from cdgen.corpus.reader import corpus_rows
from cdgen.errors import UsageError
from cdgen.eval.plausible_sets import PlausibleSets, plausible_sets
from cdgen.generation.config import GenerateConfig
from cdgen.generation.run import generate

pytestmark = pytest.mark.usefixtures("one_thread")

GOOD, BAD = ASSETS / "demo-pair/good", ASSETS / "demo-pair/bad"
Corpus = Callable[..., Path]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Return a function that writes a corpus of six sequences with the bundled pair."""

    def write(**settings: Any) -> Path:
        prompts = (ASSETS / "demo-prompts.txt").read_text().splitlines()[:3]
        (tmp_path / "prompts.txt").write_text("\n".join(prompts))
        sizes = {"prompt_tokens": 6, "num_sequences": 2, "max_new_tokens": 24}
        given = {"bad": str(BAD), **sizes, **settings}
        out = tmp_path / "out"
        generate(GenerateConfig(good=GOOD, prompts=str(tmp_path / "prompts.txt"), out=out, **given))
        return out

    return write


def log_probs(folder: Path, row: dict[str, Any]) -> torch.Tensor:  # [new_tokens, V] float64
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([row["tokens"]])).logits[0]
    return logits[row["prompt_tokens"] - 1 : -1].log_softmax(-1)


def rows_of(out: Path) -> Iterator[dict[str, Any]]:
    return corpus_rows(out, ["tokens", "prompt_tokens", "new_tokens", "mean_plausible"])


def found_in(out: Path, bad: Path | str | None = None) -> PlausibleSets:
    found = plausible_sets(out, GOOD, None if bad is None else str(bad), "cpu")
    assert found is not None
    return found


def test_sizes_are_those_of_generation(corpus: Corpus) -> None:
    out = corpus()
    found = found_in(out)
    rows = list(rows_of(out))
    assert (found.rows, found.tokens) == (6, sum(row["new_tokens"] for row in rows))
    total = sum(row["mean_plausible"] * row["new_tokens"] for row in rows)
    assert found.mean == pytest.approx(total / found.tokens, rel=1e-6)
    sizes = np.concatenate(
        [
            (p := log_probs(GOOD, row)).ge(p.amax(-1, True) + np.log(0.1)).sum(-1).numpy()
            for row in rows
        ]
    )
    assert (found.median, found.largest) == (np.median(sizes), sizes.max())
    assert found.truncated == 0, "nothing truncates"


def test_top_k_acts_where_more_tokens_are_plausible(corpus: Corpus) -> None:
    """No BAD is needed to know that, and a large k never acts at all."""
    out = corpus(top_k=3)
    sizes = [
        (p := log_probs(GOOD, row)).ge(p.amax(-1, True) + np.log(0.1)).sum(-1)
        for row in rows_of(out)
    ]
    expected = float((torch.cat(sizes) > 3).double().mean())
    assert 0 < expected < 1
    assert found_in(out).truncated == expected == found_in(out, BAD).truncated


def test_a_large_top_k_never_acts(corpus: Corpus) -> None:
    assert found_in(corpus(top_k=200)).truncated == 0


def test_top_p_of_a_contrast_needs_bad(corpus: Corpus) -> None:
    out = corpus(top_p=0.8)
    acted = []
    for row in rows_of(out):
        good, bad = log_probs(GOOD, row), log_probs(BAD, row)
        score = (good - bad).where(good >= good.amax(-1, True) + np.log(0.1), -torch.inf)
        p = score.softmax(-1).sort(-1, descending=True).values
        kept = (p.cumsum(-1) - p < 0.8).logical_and(p > 0).sum(-1)
        acted.append(kept < (p > 0).sum(-1))
    expected = float(torch.cat(acted).double().mean())
    assert 0 < expected < 1
    assert found_in(out, BAD).truncated == pytest.approx(expected)
    assert found_in(out).truncated is None


def test_bad_of_goods_first_layers(corpus: Corpus) -> None:
    """BAD made of GOOD is made again; dropout cannot be, for its noise is gone."""
    out = corpus(bad="layers:1", top_p=0.5)
    truncated = found_in(out, "layers:1").truncated
    assert truncated is not None and 0 < truncated < 1
    with pytest.raises(UsageError, match="not the BAD that wrote"):
        found_in(out, "layers:2")


def test_dropout_cannot_be_repeated(corpus: Corpus) -> None:
    assert found_in(corpus(bad="dropout:0.5", top_p=0.5), "dropout:0.5").truncated is None


def test_plain_sampling(corpus: Corpus) -> None:
    """Every token is plausible, and top-p acts nearly everywhere."""
    found = found_in(corpus(bad="none", strategy="vanilla", top_p=0.9))
    assert found.mean == found.largest == 4096
    assert found.truncated == 1


def test_another_good(corpus: Corpus) -> None:
    with pytest.raises(UsageError, match="not the GOOD that wrote"):
        plausible_sets(corpus(), BAD, None, "cpu")


def test_the_command(corpus: Corpus, cdgen: Callable[..., Any], tmp_path: Path) -> None:
    out = corpus(top_k=3)
    ended = cdgen("measure", out, "--judge", GOOD)
    assert ended.code == 0, ended.err
    said = dict(line.rsplit("  ", 1) for line in ended.out.splitlines())
    assert any(key.startswith("truncation removed a token at") for key in said)
    ended = cdgen("measure", out, "--judge", BAD)
    assert ended.code == 0 and "truncation" not in ended.out, "BAD's sets mean nothing here"
    ended = cdgen("measure", out, "--judge", BAD, "--bad", BAD)
    assert ended.code == 2 and "--bad: only where --judge is the GOOD" in ended.err


def test_a_pair_file_names_both(corpus: Corpus, cdgen: Callable[..., Any], tmp_path: Path) -> None:
    out = corpus(top_p=0.8)
    (tmp_path / "pair.yaml").write_text(f"good: {GOOD}\nbad: {BAD}\nalternatives: []\n")
    named = cdgen("measure", out, "--judge", GOOD, "--bad", BAD)
    ended = cdgen("measure", out, "--pair", tmp_path / "pair.yaml")
    assert ended.code == 0 and ended.out == named.out
    ended = cdgen("measure", out, "--pair", tmp_path / "pair.yaml", "--judge", GOOD)
    assert ended.code == 2 and "--judge: not with --pair" in ended.err
