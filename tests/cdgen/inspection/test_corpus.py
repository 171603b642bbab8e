"""Rows of a corpus: the plan's strategy draws the row's own tokens again, and other models are
refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_pair import PairFolders

from cdgen.corpus.folder import CorpusFolder
from cdgen.errors import PlanMismatch, StorageError, UsageError
from cdgen.inspection.corpus import InspectedCorpus, open_corpus
from cdgen.inspection.positions import Position
from cdgen.inspection.reader import SequenceReader
from cdgen.storage import write_record

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def write_corpus(
    cdgen: Callable[..., Any], tiny_pair: PairFolders, prompts: Path, tmp_path: Path
) -> Callable[..., Path]:
    """Write the corpus of ten sequences of at most 20 new tokens that the flags describe."""

    def write(*flags: object, good: Path = tiny_pair.good) -> Path:
        sizes = ("--max-new-tokens", 20, "--num-sequences", 2, "--prompt-tokens", 4)
        out = tmp_path / "corpus"
        corpus = ("--good", good, "--prompts", prompts, "--out", out, "--seed", 2**63 + 5)
        assert cdgen("generate", *corpus, *sizes, *flags).code == 0
        return out

    return write


def inspected(corpus: InspectedCorpus) -> list[tuple[int, list[Position]]]:
    """Return the length of the prompt and the records of every row."""
    rows = [corpus.sequence(i) for i in range(corpus.plan.num_sequences)]
    reader = SequenceReader.load(corpus.plan, corpus.pair, corpus.strategies)
    found = reader.positions(rows)
    return list(zip([row.prompt_tokens for row in rows], found, strict=True))


def require_own_tokens(corpus: InspectedCorpus, least: int) -> None:
    """Assert that the plan's strategy draws each token of each continuation, at least `least`."""
    drawn = 0
    for prompt_tokens, records in inspected(corpus):
        for record in records[prompt_tokens - 1 :]:
            assert getattr(record.drawn, corpus.plan.strategy) == record.token
            drawn += 1
    assert drawn >= least


@pytest.mark.parametrize("bad", ["layers:1", "window:3", "dropout:0.5", "folder"])
def test_the_contrast_draws_the_rows_own_tokens(
    write_corpus: Callable[..., Path], tiny_pair: PairFolders, bad: str
) -> None:
    own_bad = str(tiny_pair.bad) if bad == "folder" else bad
    shaping = ("--temperature", 0.9, "--top-p", 0.95, "--contrast", 0.7, "--alpha", 0.05)
    out = write_corpus("--bad", own_bad, *shaping)
    # A BAD that is made of GOOD is in the plan; a folder has to be named.
    corpus = open_corpus(out, tiny_pair.good, own_bad if bad == "folder" else None)
    assert corpus.notes == ()
    require_own_tokens(corpus, least=50)


@pytest.mark.parametrize("bad", ["layers:1", "window:3", "folder"])
def test_prompts_in_batches_as_on_a_gpu(
    write_corpus: Callable[..., Path],
    tiny_pair: PairFolders,
    bad: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cdgen.engine.slot_engine.uses_prefill", lambda *_: True)
    own_bad = str(tiny_pair.bad) if bad == "folder" else bad
    out = write_corpus("--bad", own_bad)
    require_own_tokens(open_corpus(out, tiny_pair.good, own_bad), least=50)


@pytest.mark.parametrize("strategy", ["vanilla", "plausible"])
def test_the_other_strategies_draw_their_rows_too(
    write_corpus: Callable[..., Path], tiny_pair: PairFolders, strategy: str
) -> None:
    out = write_corpus("--strategy", strategy)
    require_own_tokens(open_corpus(out, tiny_pair.good), least=50)
    # A BAD that the plan does not have changes nothing but the column of the contrast.
    with_bad = open_corpus(out, tiny_pair.good, str(tiny_pair.bad))
    require_own_tokens(with_bad, least=50)
    records = [record for _, found in inspected(with_bad) for record in found]
    assert any(record.drawn.cd != record.drawn.plausible for record in records)


def test_no_mask_needs_all_of_bads_logits(
    write_corpus: Callable[..., Path], tiny_pair: PairFolders
) -> None:
    out = write_corpus("--bad", tiny_pair.bad, "--alpha", 0, "--contrast", 0.5, "--top-k", 9)
    require_own_tokens(open_corpus(out, tiny_pair.good, str(tiny_pair.bad)), least=50)


def test_models_without_a_lean_decoder_agree_up_to_rounding(
    write_corpus: Callable[..., Path], tiny_gpt2_pair: PairFolders
) -> None:
    out = write_corpus("--bad", tiny_gpt2_pair.bad, good=tiny_gpt2_pair.good)
    corpus = open_corpus(out, tiny_gpt2_pair.good, str(tiny_gpt2_pair.bad))
    assert corpus.plan.decoder == "transformers"
    same = [
        record.drawn.cd == record.token
        for prompt_tokens, records in inspected(corpus)
        for record in records[prompt_tokens - 1 :]
    ]
    assert len(same) > 50 and sum(same) >= len(same) - 1


@pytest.mark.data
def test_a_trained_pair_draws_its_rows_again(
    cdgen: Callable[..., Any], stories260k: SimpleNamespace, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Once upon a time there was a fox\nTom and Anna\nThe old house\n")
    pair = ("--good", stories260k.good, "--bad", stories260k.bad)
    out = tmp_path / "corpus"
    sizes = ("--num-sequences", 6, "--max-new-tokens", 60, "--prompt-tokens", 6)
    assert cdgen("generate", *pair, "--prompts", prompts, "--out", out, *sizes).code == 0
    require_own_tokens(open_corpus(out, stories260k.good, str(stories260k.bad)), least=900)


def test_other_models_are_refused_by_their_hashes(
    write_corpus: Callable[..., Path], tiny_pair: PairFolders, tiny_twin: Path
) -> None:
    out = write_corpus("--bad", tiny_pair.bad)
    with pytest.raises(PlanMismatch, match=r"was written by other models: BAD: was \w+\.\.\., now"):
        open_corpus(out, tiny_pair.good, str(tiny_twin))
    with pytest.raises(PlanMismatch, match=r"BAD: was \w+\.\.\., now layers:1"):
        open_corpus(out, tiny_pair.good, "layers:1")
    with pytest.raises(PlanMismatch, match="GOOD: was"):
        open_corpus(out, tiny_twin, str(tiny_pair.bad))


def test_models_are_found_by_name_or_asked_for(
    write_corpus: Callable[..., Path], tiny_pair: PairFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_corpus("--bad", tiny_pair.bad)
    with pytest.raises(UsageError, match="its GOOD was good, which is no folder here: give --good"):
        open_corpus(out)
    with pytest.raises(UsageError, match="its BAD was bad, which is no folder here: give --bad"):
        open_corpus(out, tiny_pair.good)
    monkeypatch.chdir(tiny_pair.good.parent)
    assert open_corpus(out).pair.bad is not None
    (out / ".cdgen/models.json").unlink()
    with pytest.raises(UsageError, match="does not say which model is its GOOD: give --good"):
        open_corpus(out)


def test_a_row_must_be_there(
    write_corpus: Callable[..., Path], tiny_pair: PairFolders, tmp_path: Path
) -> None:
    corpus = open_corpus(write_corpus("--bad", tiny_pair.bad), tiny_pair.good, str(tiny_pair.bad))
    for row in (-1, 10):
        with pytest.raises(UsageError, match=f"has the sequences 0 to 9, got {row}"):
            corpus.sequence(row)
    for tokens in ([0, 4, 48], [0, -1], [0] * 25, [0], [0, None], ["a", "b"], None):
        row = {"sequence_id": 3, "prompt_tokens": 2, "tokens": tokens}
        with pytest.raises(StorageError, match="sequence 3 is not one of its plan"):
            corpus.checked(row)
    next((corpus.out / "data").iterdir()).write_bytes(b"")
    with pytest.raises(StorageError, match="0 bytes, expected"):
        corpus.sequence(3)


def test_another_machine_is_named(
    write_corpus: Callable[..., Path], tiny_pair: PairFolders
) -> None:
    out = write_corpus("--strategy", "vanilla", "--format", "jsonl")
    plan = CorpusFolder(out).plan
    gpu = plan.model_copy(update={"device": "cuda NVIDIA H200", "dtype": "bfloat16"})
    write_record(out / ".cdgen/plan.json", gpu.fields)
    corpus = open_corpus(out, tiny_pair.good)
    assert corpus.plan.dtype == "float32" and corpus.plan.slots == 16
    (note,) = corpus.notes
    assert "a draw may differ from the corpus's own" in note and "NVIDIA H200" in note
