"""`cdgen generate` from its flags to the published files."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.loading import load_tensors
from cdgen.engine.sequences import Limits, Request, Sequence
from cdgen.engine.settings import EngineSettings
from cdgen.engine.slot_engine import SlotEngine
from cdgen.kernels.sampling_params import SamplingParams
from cdgen.models.decoder import Decoder, Dropout
from cdgen.models.registry import lean_config

pytestmark = pytest.mark.usefixtures("one_thread")

Command = Callable[..., Any]
PROMPT_TOKENS, NEW_TOKENS, SEQUENCES = 4, 12, 3

# The text that the model's author published for stories260K.
GREEDY = """\
Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One \
day, she saw a big, red ball. She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. She said, \
"I want to play with your ball, but I can't find it."
Lily was sad and didn't know what to do. She said, "I'm sorry, Lily. I didn't know what to do."
Lily didn't want to help her mom, so"""


@pytest.fixture
def generate(cdgen: Command, tiny_pair: Any, prompts: Path) -> Command:
    """Run `cdgen generate` for 5 x 3 sequences into the given folder, with flags as keywords."""

    def run(out: Path, *more: object, code: int = 0, **flags: object) -> Any:
        defaults = {
            "good": tiny_pair.good,
            "bad": tiny_pair.bad,
            "prompts": prompts,
            "prompt_tokens": PROMPT_TOKENS,
            "max_new_tokens": NEW_TOKENS,
            "num_sequences": SEQUENCES,
            "range_size": 4,
        }
        pairs = [
            (f"--{name.replace('_', '-')}", value)
            for name, value in ({"out": out} | defaults | flags).items()
            if value is not None
        ]
        ended = cdgen("generate", *(x for pair in pairs for x in pair), *more)
        assert ended.code == code, ended
        return ended

    return run


def read_rows(out: Path) -> list[dict[str, Any]]:
    files = sorted((out / "data").iterdir())
    return [row for file in files for row in pq.read_table(file).to_pylist()]


# ---- what is written ---------------------------------------------------------------------------


def test_the_published_greedy_text(
    cdgen: Command, stories260k: Any, prompts: Path, tmp_path: Path
) -> None:
    ended = cdgen(
        "generate",
        "--good",
        stories260k.good,
        "--strategy",
        "vanilla",
        "--temperature",
        0,
        "--prompts",
        prompts,
        "--prompt-tokens",
        1,
        "--num-sequences",
        1,
        "--max-new-tokens",
        199,
        "--out",
        tmp_path / "out",
    )
    assert ended.code == 0, ended
    rows = read_rows(tmp_path / "out")
    assert [row["text"] for row in rows] == [GREEDY] * 5
    assert {row["new_tokens"] for row in rows} == {199}


def requests_of(prompts: Path) -> list[Request]:
    """Return the requests of some prompts: word `wN` has the id N, and BOS comes first."""
    documents = prompts.read_text().split("\n")[:-1]
    ids = [[0, *(int(word[1:]) for word in document.split())] for document in documents]
    return [Request(n, ids[n // SEQUENCES][:PROMPT_TOKENS]) for n in range(len(ids) * SEQUENCES)]


def written_by_the_engine(
    pair: Any,
    prompts: Path,
    params: SamplingParams,
    seed: int = 0,
    dropout: float = 0.0,
    stop_on_eos: bool = True,
) -> list[Sequence]:
    """Return the sequences that engine/test_slot_engine.py holds to transformers, by sequence
    id."""

    def load(folder: Path, dropped: Dropout | None = None) -> Decoder:
        checkpoint = open_checkpoint(folder)
        capacity = PROMPT_TOKENS + NEW_TOKENS
        shape = lean_config(checkpoint.config, capacity)
        assert shape is not None
        tensors = load_tensors(checkpoint, torch.float32)
        return Decoder(shape, [tensors], 16, capacity, dropout=dropped)

    good = load(pair.good, Dropout(dropout, seed) if dropout else None)
    bad = load(pair.bad) if params.bad_weight and not dropout else None
    limits = Limits(NEW_TOKENS, (1,), stop_on_eos)
    engine = SlotEngine(good, bad, EngineSettings(params, limits, seed, 48, logprobs=True))
    return sorted(engine.generate(requests_of(prompts)), key=lambda s: s.sequence_id)


CASES: dict[str, tuple[dict[str, object], SamplingParams, dict[str, Any]]] = {
    "defaults": ({}, SamplingParams(), {}),
    "cd": (
        {"strategy": "cd", "contrast": 0.5, "alpha": 0.2, "temperature": 0.7, "seed": 2**64 - 1},
        SamplingParams(bad_weight=0.5, alpha=0.2, temperature=0.7),
        {"seed": 2**64 - 1},
    ),
    "truncated": (
        {"top_k": 5, "top_p": 0.8, "min_p": 0.2},
        SamplingParams(top_k=5, top_p=0.8, min_p=0.2),
        {},
    ),
    "no mask": ({"alpha": 0}, SamplingParams(alpha=0.0), {}),
    "vanilla": ({"strategy": "vanilla"}, SamplingParams(bad_weight=0.0, alpha=0.0), {}),
    "plausible": ({"strategy": "plausible"}, SamplingParams(bad_weight=0.0), {}),
    "dropout": ({"bad": "dropout:0.5"}, SamplingParams(), {"dropout": 0.5}),
    "dropout, seeded": (
        {"bad": "dropout:0.5", "seed": 9},
        SamplingParams(),
        {"dropout": 0.5, "seed": 9},
    ),
    "masked score": ({"masked_score": 3}, SamplingParams(masked_score=3.0), {}),
    "no stop": ({"on_eos": "continue"}, SamplingParams(), {"stop_on_eos": False}),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_are_what_the_flags_ask_for(
    case: str, generate: Command, tiny_pair: Any, prompts: Path, tmp_path: Path
) -> None:
    flags, params, more = CASES[case]
    generate(tmp_path / "out", **flags)
    rows = read_rows(tmp_path / "out")
    expected = written_by_the_engine(tiny_pair, prompts, params, **more)
    assert len(rows) == len(expected) == 15
    for row, sequence in zip(rows, expected, strict=True):
        assert row["sequence_id"] == sequence.sequence_id
        assert row["prompt_id"] == sequence.sequence_id // SEQUENCES
        assert row["tokens"] == sequence.tokens
        assert row["prompt_tokens"] == sequence.prompt_tokens
        assert row["new_tokens"] == sequence.new_tokens
        assert row["finish_reason"] == sequence.finish_reason
        mean = sequence.plausible / sequence.new_tokens
        assert row["mean_plausible"] == pytest.approx(mean, rel=1e-6)
        words = "".join(f"w{token}" if token > 1 else "\n\n" for token in sequence.tokens)
        assert row["text"].split() == words.split()


def test_without_bos_and_with(generate: Command, prompts: Path, tmp_path: Path) -> None:
    """The plan says what stands before the documents."""
    for bos, prefix in (("auto", [0]), ("never", []), ("always", [0])):
        generate(tmp_path / bos, bos=bos)
        plan = json.loads((tmp_path / bos / "manifest.json").read_bytes())["plan"]
        assert plan["prefix_token_ids"] == prefix
        requests = requests_of(prompts)
        for row, request in zip(read_rows(tmp_path / bos), requests, strict=True):
            document = [*prefix, *request.prompt[1:]]
            assert row["tokens"][: len(document)] == document
    ended = generate(tmp_path / "auto", code=3, bos="never")
    assert "prefix_token_ids: was [0], now []" in ended.err


def test_the_cases_differ(tiny_pair: Any, prompts: Path) -> None:
    """Otherwise the test above could pass with a flag that does nothing."""
    texts = [
        tuple(tuple(s.tokens) for s in written_by_the_engine(tiny_pair, prompts, params, **more))
        for _, params, more in CASES.values()
    ]
    assert len(set(texts)) == len(CASES)


def test_logprobs_are_those_of_transformers(
    generate: Command, tiny_pair: Any, tmp_path: Path
) -> None:
    generate(tmp_path / "out", "--logprobs")
    model = AutoModelForCausalLM.from_pretrained(tiny_pair.good, dtype=torch.float32)
    for row in read_rows(tmp_path / "out"):
        tokens = torch.tensor(row["tokens"])
        with torch.inference_mode():
            logprobs = model(tokens[None]).logits[0].double().log_softmax(-1)
        drawn = logprobs[:-1].gather(1, tokens[1:, None])[row["prompt_tokens"] - 1 :]
        assert row["good_logprob"] == pytest.approx(float(drawn.sum()), abs=1e-4)


def test_rows_without_logprobs_have_no_such_column(generate: Command, tmp_path: Path) -> None:
    generate(tmp_path / "out")
    assert "good_logprob" not in read_rows(tmp_path / "out")[0]


def test_quarantined_rows_are_written_and_reported(
    generate: Command, tiny_pair: Any, tmp_path: Path
) -> None:
    """BAD's token 5 has a NaN embedding: exit 6, or 0 if that many quarantined rows are allowed."""
    bad = Path(shutil.copytree(tiny_pair.bad, tmp_path / "bad"))
    tensors = load_file(bad / "model.safetensors")
    tensors["model.embed_tokens.weight"][5] = float("nan")
    save_file(tensors, bad / "model.safetensors")
    ended = generate(tmp_path / "out", "--logprobs", code=6, bad=bad)
    rows = read_rows(tmp_path / "out")
    found = [row for row in rows if row["finish_reason"] == "quarantined"]
    assert f"{len(found)} of 15 sequences could not be sampled" in ended.err
    assert all(5 in row["tokens"] for row in found)
    assert 0 < len(found) < 15
    manifest = json.loads((tmp_path / "out/manifest.json").read_bytes())
    assert manifest["totals"]["finish_reasons"]["quarantined"] == len(found)
    generate(tmp_path / "out", "--logprobs", code=6, bad=bad)
    generate(tmp_path / "out", "--logprobs", bad=bad, max_quarantined=len(found))


def test_padded_rows_of_the_vocabulary_are_never_drawn(
    generate: Command, tiny_pair: Any, tmp_path: Path
) -> None:
    """GOOD has 16 rows more than there are tokens, with logits above all others."""
    good = Path(shutil.copytree(tiny_pair.good, tmp_path / "padded"))
    tensors = load_file(good / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], 9.0 * tensors[name][:16]])
    save_file(tensors, good / "model.safetensors")
    config = json.loads((good / "config.json").read_text())
    (good / "config.json").write_text(json.dumps(config | {"vocab_size": 64}))
    generate(tmp_path / "padded-out", good=good)
    generate(tmp_path / "out")
    assert read_rows(tmp_path / "padded-out") == read_rows(tmp_path / "out")


# ---- the same bytes, whoever makes them --------------------------------------------------------


def test_shards_in_any_order_publish_the_same_bytes(
    generate: Command,
    cdgen: Command,
    published: Callable[[Path], dict[str, bytes]],
    set_threads: Callable[[int], None],
    tmp_path: Path,
) -> None:
    generate(tmp_path / "whole", "--logprobs")
    for name, shards in [("two", ("1/2", "0/2")), ("three", ("2/3", "0/3", "1/3"))]:
        for shard in shards:
            set_threads(2 if shard == "0/2" else 1)
            generate(tmp_path / name, "--logprobs", shard=shard)
        assert cdgen("finalize", tmp_path / name).code == 0
        assert published(tmp_path / name) == published(tmp_path / "whole")
        assert cdgen("verify", tmp_path / name).code == 0


def test_a_lost_range_is_made_again(
    generate: Command, published: Callable[[Path], dict[str, bytes]], tmp_path: Path
) -> None:
    generate(tmp_path / "whole")
    generate(tmp_path / "out", shard="0/2")
    (tmp_path / "out/.cdgen/ranges/range-0000000.json").unlink()
    generate(tmp_path / "out")
    assert published(tmp_path / "out") == published(tmp_path / "whole")


def test_a_model_of_another_family_publishes_the_same_bytes_too(
    generate: Command,
    cdgen: Command,
    published: Callable[[Path], dict[str, bytes]],
    tiny_gpt2_pair: Any,
    tmp_path: Path,
) -> None:
    pair = {"good": tiny_gpt2_pair.good, "bad": tiny_gpt2_pair.bad}
    generate(tmp_path / "whole", "--logprobs", **pair)
    for shard in ("1/2", "0/2"):
        generate(tmp_path / "shards", "--logprobs", shard=shard, **pair)
    assert cdgen("finalize", tmp_path / "shards").code == 0
    assert published(tmp_path / "shards") == published(tmp_path / "whole")
    manifest = json.loads((tmp_path / "whole/manifest.json").read_bytes())
    assert manifest["plan"]["decoder"] == "transformers"


def test_the_plan_names_the_threads_where_they_move_bits(
    generate: Command, set_threads: Callable[[int], None], tiny_gpt2_pair: Any, tmp_path: Path
) -> None:
    """transformers' matrix products round differently with another number of threads; ours do
    not."""
    plans = []
    for flags in ({}, {"good": tiny_gpt2_pair.good, "bad": tiny_gpt2_pair.bad}):
        for count in (1, 2):
            set_threads(count)
            plans.append(generate(tmp_path / "out", "--dry-run", **flags).out)
    assert plans[0] == plans[1]
    assert plans[2] != plans[3]


def test_a_complete_corpus_is_left_alone(generate: Command, tmp_path: Path) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        files = (path for path in (tmp_path / "out").rglob("*") if path.is_file())
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    generate(tmp_path / "out")
    before = state()
    ended = generate(tmp_path / "out")
    assert ended.out == f"complete: 15 sequences in {tmp_path}/out/data\n"
    assert state() == before


# ---- what is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_datasets_reads_what_the_manifest_counts(
    generate: Command, tmp_path: Path, format: str
) -> None:
    generate(tmp_path / "out", "--logprobs", "--format", format)
    assert [path.suffix for path in (tmp_path / "out/data").iterdir()] == [f".{format}"]
    corpus = datasets.load_dataset(
        str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")
    )
    manifest = json.loads((tmp_path / "out/manifest.json").read_bytes())
    assert corpus["sequence_id"][:] == list(range(15))
    for counts in (manifest["totals"], manifest["files"][0]):
        assert counts["rows"] == len(corpus)
        assert counts["tokens"] == sum(map(len, corpus["tokens"]))
        assert counts["new_tokens"] == sum(corpus["new_tokens"])
        assert counts["words"] == sum(len(text.split()) for text in corpus["text"])
    assert corpus.features["tokens"].feature.dtype == "int32"
    assert corpus.features["good_logprob"].dtype == "float32"


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "folder"])
def test_every_kind_of_prompts_makes_the_same_rows(
    kind: str, generate: Command, prompts: Path, tmp_path: Path
) -> None:
    documents = prompts.read_text().splitlines()
    path = tmp_path / f"other.{kind}"
    lines = "".join(json.dumps({"id": 3, "text": text}) + "\n" for text in documents)
    if kind == "parquet":
        pq.write_table(pa.table({"id": range(5), "text": documents}), path)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif kind == "jsonl":
        path.write_text(lines)
    else:
        path.mkdir()
        (path / "a.txt").write_text("\n".join(documents[:2]))
        (path / "b.jsonl").write_text("".join(lines.splitlines(keepends=True)[2:]))
    generate(tmp_path / "text")
    generate(tmp_path / "other", prompts=path)
    assert read_rows(tmp_path / "other") == read_rows(tmp_path / "text")


def test_flags_override_the_config_file(
    generate: Command,
    cdgen: Command,
    published: Callable[[Path], dict[str, bytes]],
    tiny_pair: Any,
    prompts: Path,
    tmp_path: Path,
) -> None:
    options = {
        "good": str(tiny_pair.good),
        "bad": str(tiny_pair.bad),
        "prompts": str(prompts),
        "prompt-tokens": PROMPT_TOKENS,
        "max_new_tokens": NEW_TOKENS,
        "num-sequences": SEQUENCES,
        "range_size": 4,
        "alpha": 0.3,
        "logprobs": True,
        "seed": 5,
    }
    config = tmp_path / "corpus.yaml"
    config.write_text(yaml.safe_dump(options))
    ended = cdgen("generate", "--config", config, "--seed", 6, "--out", tmp_path / "file")
    assert ended.code == 0, ended
    generate(tmp_path / "flags", "--logprobs", alpha=0.3, seed=6)
    assert published(tmp_path / "file") == published(tmp_path / "flags")


def test_dry_run_prints_the_plan_and_writes_nothing(generate: Command, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    ended = generate(tmp_path / "out", "--dry-run")
    assert sorted(tmp_path.rglob("*")) == before
    generate(tmp_path / "out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_bytes())
    assert json.loads(ended.out) == manifest["plan"]


# ---- memory ------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
from cdgen.cli.app import run, app
assert run(lambda: app(standalone_mode=False)) == 0
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # KiB
"""


@pytest.mark.thorough
def test_peak_memory_does_not_grow_with_the_number_of_sequences(
    tiny_pair: Any, prompts: Path, tmp_path: Path
) -> None:
    """Ten times the sequences take less than 5 MB more; keeping the rows would take 9 MB. Both runs
    fill row groups of their full size; two equal runs differ by about 0.3 MB."""

    def peak_bytes(sequences: int) -> int:
        command = [
            sys.executable,
            "-c",
            MEASURE,
            "generate",
            "--good",
            tiny_pair.good,
            "--bad",
            tiny_pair.bad,
            "--prompts",
            prompts,
            "--out",
            tmp_path / str(sequences),
            "--prompt-tokens",
            "2",
            "--max-new-tokens",
            "6",
            "--range-size",
            "256",
            "--slots",
            "64",
            "--num-sequences",
            str(sequences // 5),
        ]
        ended = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert ended.returncode == 0, ended.stderr
        return 1024 * int(ended.stdout.rpartition("peak")[2])

    assert peak_bytes(20_000) - peak_bytes(2_000) < 5e6
