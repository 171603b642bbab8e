"""GOOD and BAD together: what `--bad` may say, one vocabulary, one set of special tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models

from cdgen.checkpoints.bad_source import BadSource, parse_bad
from cdgen.checkpoints.pair import Pair, open_pair
from cdgen.errors import ModelError, UsageError

WORDS = ["<s>", "</s>", "a", "b", "c", "d"]
REAL = Path(__file__).parents[4] / "shared/data/models/stories260k"
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real pair at {REAL}")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_model(tmp_path / "good")


def tokenizer_of(words: list[str]) -> Tokenizer:
    ids = {word: number for number, word in enumerate(words)}
    return Tokenizer(models.WordLevel(ids, unk_token="a"))


def write_model(
    folder: Path,
    tokenizer: Tokenizer | None = None,
    tokenizer_config: dict[str, object] | None = None,
    generation_config: dict[str, object] | None = None,
    **config: object,
) -> Path:
    """A checkpoint of one tensor; by default 8 rows, 6 words, BOS 0 and EOS 1 from config.json."""
    folder.mkdir()
    defaults = {"vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1}
    (folder / "config.json").write_text(json.dumps(defaults | config))
    (tokenizer or tokenizer_of(WORDS)).save(str(folder / "tokenizer.json"))
    if tokenizer_config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    if generation_config is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation_config))
    save_file({"embed": torch.zeros(8, 2)}, folder / "model.safetensors")
    return folder


def opened(good: Path, bad: Path | None = None) -> Pair:
    return open_pair(good, BadSource("none") if bad is None else BadSource("folder", bad))


def refusal(good: Path, bad: Path | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        opened(good, bad)
    assert caught.value.exit_code == 4
    assert str(caught.value).count("\n") <= 1
    return str(caught.value)


# --bad


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", BadSource("none")),
        ("dropout:0.5", BadSource("dropout", dropout=0.5)),
        ("dropout:1e-3", BadSource("dropout", dropout=0.001)),
        ("models/bad", BadSource("folder", folder=Path("models/bad"))),
        ("./none", BadSource("folder", folder=Path("none"))),
        ("./dropout:0.5", BadSource("folder", folder=Path("dropout:0.5"))),
        ("dropout-run", BadSource("folder", folder=Path("dropout-run"))),
    ],
)
def test_parse_bad(text: str, expected: BadSource) -> None:
    assert parse_bad(text) == expected


@pytest.mark.parametrize("rate", ["", ":", ":0", ":1", ":1.5", ":-0.5", ":nan", ":inf", ":half"])
def test_parse_bad_refuses_rates_outside_zero_to_one(rate: str) -> None:
    with pytest.raises(UsageError, match="expected dropout:P with P between 0 and 1") as caught:
        parse_bad(f"dropout{rate}")
    assert caught.value.exit_code == 2


def test_parse_bad_refuses_nothing() -> None:
    with pytest.raises(UsageError, match="--bad is empty"):
        parse_bad("")


@pytest.mark.parametrize("source", [BadSource("none"), BadSource("dropout", dropout=0.5)])
def test_bad_without_a_folder(good: Path, source: BadSource) -> None:
    pair = open_pair(good, source)
    assert pair.bad is None
    assert pair.bad_source == source


def test_missing_bad_folder(good: Path, tmp_path: Path) -> None:
    assert "nowhere: no such folder" in refusal(good, tmp_path / "nowhere")


# One vocabulary


@pytest.mark.parametrize(
    ("good_rows", "bad_rows", "expected"),
    [(8, 8, 6), (6, 64, 6), (64, 6, 6), (8, 5, 5)],
    ids=["both padded", "bad padded", "good padded", "bad smaller"],
)
def test_vocab_size_counts_tokens_that_both_score(
    tmp_path: Path, good_rows: int, bad_rows: int, expected: int
) -> None:
    good = write_model(tmp_path / "good", vocab_size=good_rows)
    bad = write_model(tmp_path / "bad", vocab_size=bad_rows)
    assert opened(good, bad).vocab_size == expected


def test_added_tokens_count(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(WORDS)
    tokenizer.add_special_tokens([AddedToken("<extra>", special=True)])
    assert opened(write_model(tmp_path / "good", tokenizer)).vocab_size == 7


def test_tokens_past_the_common_rows_may_differ(good: Path, tmp_path: Path) -> None:
    bad = write_model(tmp_path / "bad", tokenizer_of([*WORDS[:5], "other"]), vocab_size=5)
    assert opened(good, bad).vocab_size == 5


def test_differing_tokens_are_shown(good: Path, tmp_path: Path) -> None:
    bad = write_model(tmp_path / "bad", tokenizer_of([*WORDS[:3], "c", "b"]))
    first, second = refusal(good, bad).splitlines()
    assert "do not share a tokenizer: 3 of their 8 common ids" in first
    assert second == "  id GOOD BAD: 3 'b' 'c', 4 'c' 'b', 5 'd' -"


def test_only_ten_differing_tokens_are_shown(tmp_path: Path) -> None:
    words = [*WORDS, *(f"word{n}" for n in range(94))]
    good = write_model(tmp_path / "good", tokenizer_of(words), vocab_size=100)
    others = [*WORDS, *(f"{'long' * 20}{n}\n" for n in range(94))]
    bad = write_model(tmp_path / "bad", tokenizer_of(others), vocab_size=100)
    first, second = refusal(good, bad).splitlines()
    assert "94 of their 100 common ids" in first
    assert [int(shown.split()[0]) for shown in second.split(":")[1].split(", ")] == [*range(6, 16)]
    assert len(second) < 500


def test_two_tokens_with_one_id_are_compared_too(good: Path, tmp_path: Path) -> None:
    bad = write_model(tmp_path / "bad")
    content = json.loads((bad / "tokenizer.json").read_text())
    content["model"]["vocab"]["A"] = 2  # beside "a"
    (bad / "tokenizer.json").write_text(json.dumps(content))
    assert "1 of their 8 common ids" in refusal(good, bad)


def test_token_without_a_row(tmp_path: Path) -> None:
    good = write_model(tmp_path / "good", vocab_size=5)
    message = refusal(good)
    assert "gives 'd' the id 5, but vocab_size in config.json is 5" in message


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": 1}', "\ufeff", "[" * 10_000])
def test_unusable_tokenizer(good: Path, content: str) -> None:
    (good / "tokenizer.json").write_text(content)
    assert "tokenizer.json is not a usable tokenizer" in refusal(good)


def test_tokenizer_without_tokens(tmp_path: Path) -> None:
    good = write_model(tmp_path / "good", Tokenizer(models.BPE()))
    assert "tokenizer.json defines no tokens" in refusal(good)


def test_saved_truncation_and_padding_are_off(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(WORDS)
    tokenizer.enable_truncation(1)
    tokenizer.enable_padding(length=4)
    pair = opened(write_model(tmp_path / "good", tokenizer))
    assert pair.tokenizer.encode(["a", "b"], is_pretokenized=True).ids == [2, 3]


# Special tokens: config.json says bos 0, eos 1 unless stated


@pytest.mark.parametrize(
    ("tokenizer_config", "bos"),
    [
        (None, 0),
        ({}, 0),
        ({"bos_token": None}, None),
        ({"bos_token": "b"}, 3),
        ({"bos_token": {"content": "b", "lstrip": False}}, 3),
    ],
    ids=["no file", "no key", "null", "string", "object"],
)
def test_bos(tmp_path: Path, tokenizer_config: dict[str, object] | None, bos: int | None) -> None:
    folder = write_model(tmp_path / "good", tokenizer_config=tokenizer_config)
    assert opened(folder).bos_token_id == bos


@pytest.mark.parametrize(
    ("generation", "config", "tokenizer", "eos"),
    [
        (None, 1, None, (1,)),
        ({}, 1, {"eos_token": "c"}, (1,)),
        ({"eos_token_id": 2}, 1, {"eos_token": "c"}, (2,)),
        ({"eos_token_id": [3, 2, 3]}, 1, None, (3, 2)),
        ({"eos_token_id": None}, [1, 5], None, (1, 5)),
        (None, None, {"eos_token": "c"}, (4,)),
        (None, None, {"eos_token": None}, ()),
        (None, None, None, ()),
    ],
)
def test_eos(
    tmp_path: Path,
    generation: dict[str, object] | None,
    config: object,
    tokenizer: dict[str, object] | None,
    eos: tuple[int, ...],
) -> None:
    folder = write_model(
        tmp_path / "good",
        generation_config=generation,
        tokenizer_config=tokenizer,
        eos_token_id=config,
    )
    assert opened(folder).eos_token_ids == eos


def test_order_of_stop_ids_does_not_matter(tmp_path: Path) -> None:
    good = write_model(tmp_path / "good", eos_token_id=[1, 2])
    bad = write_model(tmp_path / "bad", eos_token_id=[2, 1])
    assert opened(good, bad).eos_token_ids == (1, 2)


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", [None, 3])
def test_special_ids_must_agree(good: Path, tmp_path: Path, key: str, value: Any) -> None:
    bad = write_model(tmp_path / "bad", **{key: value})
    assert "GOOD and BAD disagree on special tokens: bos 0 and" in refusal(good, bad)


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", [-1, 6, 7], ids=["negative", "padding row", "last row"])
def test_special_ids_must_be_tokens(tmp_path: Path, key: str, value: Any) -> None:
    good = write_model(tmp_path / "good", **{key: value})
    assert f"special token id {value} is outside the vocabulary of 6" in refusal(good)


@pytest.mark.parametrize("value", ["1", True, 1.0, {"id": 1}, [1, None]], ids=repr)
def test_special_ids_must_be_integers(tmp_path: Path, value: object) -> None:
    good = write_model(tmp_path / "good", eos_token_id=value)
    assert "eos_token_id an integer or a list of them" in refusal(good)


@pytest.mark.parametrize("token", ["<bos>", 7, {"contents": "<s>"}, ["<s>"]], ids=repr)
def test_special_token_must_be_defined(tmp_path: Path, token: object) -> None:
    good = write_model(tmp_path / "good", tokenizer_config={"bos_token": token})
    assert "tokenizer_config.json gives bos_token as" in refusal(good)


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_unusable_optional_file(good: Path, name: str) -> None:
    (good / name).write_text("{")
    assert f"{name} is not valid JSON" in refusal(good)


# Context


@pytest.mark.parametrize(
    ("good_config", "bad_config", "expected"),
    [
        ({}, {}, None),
        ({"max_position_embeddings": 512}, {}, 512),
        ({"max_position_embeddings": 512}, {"n_positions": 256}, 256),
        ({"n_positions": 1024, "n_ctx": 128}, {"max_position_embeddings": 512}, 128),
    ],
)
def test_context_length_is_the_shortest_stated(
    tmp_path: Path, good_config: dict[str, Any], bad_config: dict[str, Any], expected: int | None
) -> None:
    good = write_model(tmp_path / "good", **good_config)
    bad = write_model(tmp_path / "bad", **bad_config)
    assert opened(good, bad).context_length == expected


@pytest.mark.data
@needs_data
def test_real_pair() -> None:
    pair = open_pair(REAL / "good", parse_bad(str(REAL / "bad")))
    assert pair.bad is not None
    assert pair.good.sha256 != pair.bad.sha256
    assert (pair.vocab_size, pair.context_length) == (512, 512)
    assert (pair.bos_token_id, pair.eos_token_ids) == (1, (2,))
    text = "Once upon a time, there was a little girl named Lily."
    assert pair.tokenizer.decode(pair.tokenizer.encode(text).ids) == text


@pytest.mark.data
@needs_data
def test_real_model_does_not_fit_another_tokenizer(good: Path) -> None:
    message = refusal(REAL / "good", good)
    assert "do not share a tokenizer" in message
    assert "0 '<unk>' '<s>'" in message


def test_opening_a_pair_imports_no_torch(good: Path) -> None:
    program = (
        "import sys; from pathlib import Path;"
        "from cdgen.checkpoints.bad_source import parse_bad;"
        "from cdgen.checkpoints.pair import open_pair;"
        "open_pair(Path(sys.argv[1]), parse_bad('none'));"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(good)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
