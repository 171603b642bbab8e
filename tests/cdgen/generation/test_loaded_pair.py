"""`cdgen.load_pair`: rows in memory are those that `cdgen generate` writes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

import cdgen as cdgen_package
from cdgen import load_pair
from cdgen.checkpoints import loading
from cdgen.corpus.reader import corpus_rows
from cdgen.corpus.rows import Row
from cdgen.errors import ModelError, UsageError
from cdgen.generation.config import SequenceConfig
from cdgen.generation.loaded_pair import GenerationSettings, LoadedPair
from cdgen.progress import Progress

pytestmark = pytest.mark.usefixtures("one_thread")

Command = Callable[..., Any]
DEMO = Path(__file__).resolve().parents[3] / "assets/demo-pair"
TEXTS = ["Once upon a time there was a fox", "The dog saw a cat. It", "Tom"]
COLUMNS = [field.name for field in fields(Row) if field.name != "good_logprob"]
SMALL: dict[str, Any] = {"prompt_tokens": 6, "max_new_tokens": 12, "num_sequences": 3}


def written(
    cdgen: Command, folder: Path, good: Path, bad: str | Path, texts: list[str], **flags: Any
) -> list[dict[str, Any]]:
    """Return the rows of a corpus that the command writes."""
    (folder / "prompts.txt").write_text("".join(f"{text}\n" for text in texts))
    given = {"good": good, "bad": bad, "prompts": folder / "prompts.txt", "out": folder / "out"}
    pairs = ((f"--{n.replace('_', '-')}", value) for n, value in (given | flags).items())
    ended = cdgen("generate", *(x for pair in pairs for x in pair))
    assert ended.code == 0, ended.err
    return [*corpus_rows(folder / "out", COLUMNS)]


def as_written(row: Row) -> dict[str, Any]:
    """Return the columns that a corpus without log-probabilities has, in its precision."""
    values = asdict(row) | {"mean_plausible": float(np.float32(row.mean_plausible))}
    return {name: values[name] for name in COLUMNS}


@pytest.mark.parametrize(
    ("bad", "settings"),
    [
        (str(DEMO / "bad"), {"max_new_tokens": 60}),
        ("layers:2", {"alpha": 0.05, "temperature": 0.9, "top_p": 0.9, "seed": 7}),
        (str(DEMO / "bad"), {"strategy": "vanilla", "on_eos": "continue"}),
    ],
    ids=["cd", "layers", "vanilla"],
)
def test_the_demo_pair_writes_the_tokens_of_the_command(
    cdgen: Command, tmp_path: Path, bad: str, settings: dict[str, Any]
) -> None:
    chosen = SMALL | settings
    expected = written(cdgen, tmp_path, DEMO / "good", bad, TEXTS, **chosen)
    found = load_pair(DEMO / "good", bad).generate(TEXTS, progress=False, **chosen)
    assert [as_written(row) for row in found] == expected


@pytest.mark.parametrize("kind", ["tiny_pair", "tiny_gpt2_pair"])
def test_several_ranges_give_the_rows_of_the_command(
    cdgen: Command, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    """Of models that run through transformers, a range decides which sequences form a wave."""
    pair = request.getfixturevalue(kind)
    texts, sizes = ["w3 w4 w5", "w9", "w7 w8"], {**SMALL, "num_sequences": 50, "slots": 16}
    expected = written(cdgen, tmp_path, pair.good, pair.bad, texts, **sizes)
    found = load_pair(pair.good, pair.bad).generate(texts, progress=False, **sizes)
    assert [as_written(row) for row in found] == expected


@pytest.fixture
def tiny(tiny_pair: Any) -> LoadedPair:
    return load_pair(tiny_pair.good, tiny_pair.bad)


def test_token_ids_are_prompts_as_they_are(tiny: LoadedPair) -> None:
    of_texts = [*tiny.generate(["w3 w4", "w9"], progress=False, **SMALL)]
    ids = [[0, 3, 4], torch.tensor([0, 9])]
    assert [*tiny.generate(ids, progress=False, **SMALL)] == of_texts
    (long,) = tiny.generate([[0] * 30], progress=False, **{**SMALL, "num_sequences": 1})
    assert (long.prompt_tokens, long.new_tokens) == (30, 12)


def test_prompts_may_come_from_a_generator(tiny: LoadedPair) -> None:
    texts = ["w3 w4", "w9"]
    expected = [*tiny.generate(texts, progress=False, **SMALL)]
    assert [*tiny.generate((text for text in texts), progress=False, **SMALL)] == expected


def test_runs_that_overlap_do_not_disturb_each_other(tiny: LoadedPair) -> None:
    alone = [[*tiny.generate([text], progress=False, **SMALL)] for text in ("w3 w4", "w9")]
    both = [tiny.generate([text], progress=False, **SMALL) for text in ("w3 w4", "w9")]
    assert [[*rows] for rows in zip(*zip(*both, strict=True), strict=True)] == alone


def test_rows_come_while_others_are_not_written_yet(
    tiny: LoadedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    class Recorded(Progress):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            shown.append(self)

    monkeypatch.setattr("cdgen.generation.memory_run.Progress", Recorded)
    rows = tiny.generate(["w3", "w4"], progress=False, **{**SMALL, "num_sequences": 100})
    first = [*islice(rows, 3)]
    rows.close()  # type: ignore[attr-defined]
    assert [row.sequence_id for row in first] == [0, 1, 2]
    assert shown[0].meter.tokens < 200 * 6  # of 200 sequences, 64 at once


def test_the_engine_is_used_again_for_other_prompts(
    tiny: LoadedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, load = [], loading.load_tensors
    monkeypatch.setattr(
        "cdgen.generation.build_engine.load_tensors",
        lambda model, dtype: loads.append(model) or load(model, dtype),
    )
    for text in ("w3", "w4 w5"):
        list(tiny.generate([text], progress=False, **SMALL))
    assert len(loads) == 2
    first = [row.tokens for row in tiny.generate(["w3"], progress=False, **SMALL)]
    second = [row.tokens for row in tiny.generate(["w3"], progress=False, seed=1, **SMALL)]
    assert len(loads) == 4
    assert first != second


def test_a_dataset_has_the_columns_of_a_corpus(
    cdgen: Command, tmp_path: Path, tiny_pair: Any, tiny: LoadedPair
) -> None:
    texts = ["w3 w4", "w9"]
    written(cdgen, tmp_path, tiny_pair.good, tiny_pair.bad, texts, **SMALL)
    corpus = datasets.load_dataset(
        str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")
    )
    found = tiny.generate_dataset(texts, progress=False, **SMALL)
    assert found.features == corpus.features
    assert found.to_list() == corpus.to_list()
    more = tiny.generate_dataset(texts, progress=False, logprobs=True, **SMALL)
    assert more["good_logprob"][0] < 0


def test_the_callers_threads_are_its_own_between_rows(
    tiny: LoadedPair, set_threads: Callable[[int], None]
) -> None:
    set_threads(2)
    rows = tiny.generate(["w3"], progress=False, **SMALL)
    next(rows)
    assert torch.get_num_threads() == 2


def test_progress_is_shown_on_request(
    tiny: LoadedPair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdgen.progress.LOG_INTERVAL", 0.0)
    list(tiny.generate(["w3"], progress=False, **SMALL))
    assert capsys.readouterr().err == ""
    list(tiny.generate(["w3"], **SMALL))
    assert "/3 sequences  " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompts", "settings", "says"),
    [
        ("w3", {}, "got a single text: put it into a list"),
        ([], {}, "got none"),
        (["w3", [0, 4]], {}, "got both"),
        (["w3", " "], {}, "prompt 1 is blank"),
        ([[0], []], {}, "prompt 1 has no token"),
        ([[0, -1]], {}, "prompt 0 holds the token -1"),
        ([[0, 48]], {}, "prompt 0 holds token 48"),
        ([["0"]], {}, "lists of token ids, got ['0']"),
        (["w3"], {"alpha": 2}, "alpha: "),
        (["w3"], {"slots": 17}, "expected a multiple of 16, got 17"),
        (["w3"], {"max_tokens": 5}, "max_tokens: "),
        ([[0] * 60], {"max_new_tokens": 6}, "the context of the pair is 64"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(
    tiny: LoadedPair, prompts: Any, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError) as refused:
        tiny.generate(prompts, **{**SMALL, **settings})
    assert says in str(refused.value)


def test_special_tokens_that_a_prompt_spells_out_are_text(
    tiny: LoadedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    list(tiny.generate(["w3 <s>"], progress=False, **SMALL))
    assert "spelled out in documents are read as text: 1 <s>" in capsys.readouterr().err


def test_models_that_cannot_be_used_are_refused_by_load_pair(
    tiny_pair: Any, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load_pair(tmp_path / "nowhere", tiny_pair.bad)
    with pytest.raises(ModelError, match="GOOD and BAD are one model"):
        load_pair(tiny_pair.good, tiny_pair.good)
    with pytest.raises(UsageError, match="device: "):
        load_pair(tiny_pair.good, tiny_pair.bad, device="tpu")
    alone = load_pair(tiny_pair.good)
    with pytest.raises(UsageError, match="--strategy cd needs --bad"):
        alone.generate(["w3"], **SMALL)


def test_every_setting_of_the_sequences_is_a_keyword() -> None:
    of_the_pair = {"good", "bad", "dtype", "kv_dtype", "device"}
    assert {*GenerationSettings.__annotations__} == {*SequenceConfig.model_fields} - of_the_pair


def test_load_pair_is_found_without_the_heavy_imports() -> None:
    program = "import sys, cdgen; cdgen.load_pair; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "cdgen.generation.loaded_pair" in loaded
    assert not {"torch", "transformers", "datasets"} & {*loaded}


def test_the_types_name_what_the_package_exports() -> None:
    package = Path(__file__).resolve().parents[3] / "cdgen"
    stub = re.findall(r" as (\w+)$", (package / "__init__.pyi").read_text(), flags=re.MULTILINE)
    assert {*stub, "__version__"} == {*cdgen_package.__all__}
