"""Corpora of `cdgen generate` as training sequences: documents whole, no EOS that is not true."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from cdgen.demo import ASSETS
from cdgen.errors import UsageError
from cdgen.train.synthetic import manifest_sha256, split_row, synthetic_sequences
from cdgen.train.tokenizer import BOS_ID, EOS_ID, PAD_ID, SpecialIds, train_tokenizer

PAIR = ASSETS / "demo-pair"
MADE_IDS = SpecialIds(PAD_ID, BOS_ID, EOS_ID)


def test_a_row_is_split_where_documents_end() -> None:
    stops = {EOS_ID, 77}
    for row, expected in (
        ([BOS_ID, 5, 6], [[BOS_ID, 5, 6]]),  # cut off: no EOS
        ([BOS_ID, 5, EOS_ID], [[BOS_ID, 5, EOS_ID]]),
        ([BOS_ID, 5, EOS_ID, 6], [[BOS_ID, 5, EOS_ID], [BOS_ID, 6]]),
        ([BOS_ID, 5, EOS_ID, BOS_ID, 6, 77], [[BOS_ID, 5, EOS_ID], [BOS_ID, 6, EOS_ID]]),
        ([5, BOS_ID, 6], [[BOS_ID, 5], [BOS_ID, 6]]),
        ([BOS_ID, EOS_ID, EOS_ID], []),
    ):
        assert split_row(row, stops, MADE_IDS) == expected


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A small corpus of the bundled pair, rows ending at EOS or going on behind it."""
    from cdgen.config import GenerateConfig
    from cdgen.generate import generate

    made: dict[str, Path] = {}

    def folder(on_eos: str) -> Path:
        if on_eos not in made:
            made[on_eos] = tmp_path_factory.mktemp(on_eos) / "out"
            values: dict[str, Any] = {
                "good": PAIR / "good", "bad": str(PAIR / "bad"),
                "prompts": str(ASSETS / "demo-prompts.txt"), "out": made[on_eos],
                "num_sequences": 1, "prompt_tokens": 6, "max_new_tokens": 230, "on_eos": on_eos,
            }  # fmt: skip
            generate(GenerateConfig.model_validate(values))
        return made[on_eos]

    return folder


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [
        row for path in sorted((out / "data").iterdir()) for row in pq.read_table(path).to_pylist()
    ]


@pytest.mark.parametrize("on_eos", ["stop", "continue"])
def test_every_token_once_in_order_and_no_false_end(
    corpus: Callable[[str], Path], on_eos: str, one_thread: None
) -> None:
    out, tokenizer = corpus(on_eos), Tokenizer.from_file(str(PAIR / "good/tokenizer.json"))
    sequences, again = synthetic_sequences(out, tokenizer, MADE_IDS)
    assert not again
    rows = rows_of(out)
    special = {BOS_ID, EOS_ID}
    kept = [token for sequence in sequences for token in sequence if token not in special]
    assert kept == [token for row in rows for token in row["tokens"] if token not in special]
    ends = sum(row["tokens"].count(EOS_ID) for row in rows)
    assert sum(sequence[-1] == EOS_ID for sequence in sequences) == ends > 0
    assert any(row["finish_reason"] == "length" for row in rows)
    assert all(sequence[0] == BOS_ID and EOS_ID not in sequence[:-1] for sequence in sequences)


def test_another_tokenizer_reads_the_text_again(
    corpus: Callable[[str], Path], one_thread: None
) -> None:
    rows = rows_of(corpus("stop"))
    other = train_tokenizer([row["text"] for row in rows], 300)
    sequences, again = synthetic_sequences(corpus("stop"), other, MADE_IDS)
    assert again
    for row, sequence in zip(rows, sequences, strict=True):
        assert other.decode(sequence) == row["text"]
        assert (sequence[-1] == EOS_ID) == (row["finish_reason"] == "eos")


def test_a_folder_that_is_no_finished_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="finalized"):
        manifest_sha256(tmp_path)
