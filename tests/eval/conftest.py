"""Small models of several architectures, made-up evaluation data, and the real data unpacked."""

from __future__ import annotations

import json
import math
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eval_files import TASKS, Run, change_weights
from tokenizers import Tokenizer, processors

ASSETS = Path(__file__).resolve().parents[2] / "assets"
BOS, EOS = 1, 2  # in the tokenizer of the bundled pair
VOCAB = 4096


def _configs() -> dict[str, Any]:
    from transformers import (
        BloomConfig,
        Gemma2Config,
        GPT2Config,
        GPTNeoXConfig,
        LlamaConfig,
        MambaConfig,
        MistralConfig,
        Qwen3Config,
    )

    ids = {"vocab_size": VOCAB, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": 0}
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        **ids,
    }
    grouped = {**shape, "num_key_value_heads": 2, "head_dim": 8}
    return {
        "llama": LlamaConfig(**grouped),
        "qwen3": Qwen3Config(**grouped),
        "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **ids),
        "gpt_neox": GPTNeoXConfig(**shape),
        "mistral": MistralConfig(**grouped, sliding_window=20),
        "gemma2": Gemma2Config(**grouped, query_pre_attn_scalar=8, final_logit_softcapping=3.0),
        "bloom": BloomConfig(hidden_size=32, n_layer=2, n_head=4, **ids),
        "mamba": MambaConfig(hidden_size=32, num_hidden_layers=2, **ids),
    }


@pytest.fixture(scope="session")
def architecture(
    tmp_path_factory: pytest.TempPathFactory, save_random: Callable[..., Path]
) -> Callable[[str], Path]:
    """Return a function from the name of an architecture to a random checkpoint of it, with the
    tokenizer of the bundled pair (a byte-level BPE)."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            path = tmp_path_factory.mktemp(kind) / kind
            made[kind] = save_random(_configs()[kind], path, head_scale=2.0)
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(ASSETS / "demo-pair/good" / name, path)
        return made[kind]

    return folder


@pytest.fixture
def llama(architecture: Callable[[str], Path]) -> Path:
    return architecture("llama")


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies a checkpoint folder, so that a test may change it."""

    def copy(folder: Path, name: str = "copy") -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    return copy


@pytest.fixture
def without_bos(llama: Path, copy_of: Callable[..., Path]) -> Path:
    """Return a checkpoint whose tokenizer puts nothing before a text, like GPT-2's."""
    folder = copy_of(llama, "without-bos")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def other(llama: Path, copy_of: Callable[..., Path]) -> Path:
    """Return a model that differs from llama but has the same tokenizer."""
    folder = copy_of(llama, "other")
    change_weights(folder, "lm_head.weight", lambda w: w.neg_())
    return folder


@pytest.fixture
def broken(llama: Path, copy_of: Callable[..., Path]) -> Path:
    """Return a model with NaN weights."""
    folder = copy_of(llama, "broken")
    change_weights(folder, "model.norm.weight", lambda w: w.fill_(math.nan))
    return folder


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def write_jsonl() -> Callable[[Path, list[dict[str, Any]]], None]:
    return write_lines


NOUNS = ("cat", "dog", "bird", "frog", "cow", "duck")


def _pair(good: str, bad: str, **more: str) -> dict[str, Any]:
    return {"sentence_good": good, "sentence_bad": bad, **more}


@pytest.fixture
def small_data(tmp_path: Path) -> Path:
    """Write data for every kind of task in the official layout, with made-up sentences."""
    data = tmp_path / "data"
    for uid, field in (("agreement", "morphology"), ("island", "syntax_semantics")):
        more = {"UID": uid, "field": field, "linguistics_term": uid}
        rows = [
            _pair(f"The {n} sleeps in {uid}s.", f"The {n} sleep in {uid}s.", **more) for n in NOUNS
        ]
        write_lines(data / f"blimp_fast/{uid}.jsonl", rows)
    rows = [_pair(f"Who ran?\nThe {n}.", f"Who ran?\nThe {n} fast.") for n in NOUNS[:4]]
    write_lines(data / "supplement_fast/answers.jsonl", rows)
    rows = [
        {
            "Domain": domain,
            "Context1": f"The {n} is big.",
            "Context2": f"The {n} is small.",
            "Target1": f"A large {n} it is.",
            "Target2": f"A tiny {n} it is.",
            "ContextType": "direct",
            "ContextDiff": "antonym",
            "TargetDiff": "concept swap",
        }
        for domain in ("size", "place")
        for n in NOUNS[:3]
    ]
    write_lines(data / "ewok_fast/all.jsonl", rows)
    for stem, most in (("regular", 3), ("ambiref", 2)):
        rows = [
            {
                "numops": ops,
                "input_prefix": f"Box 1 has the {n}. " + "It moves. " * ops + "Box 1 has ",
                "options": [f"the {n}.", "the map.", "nothing."],
            }
            for n in NOUNS[:2]
            for ops in range(most)
        ]
        write_lines(data / f"entity_tracking/{stem}.jsonl", rows)
    for stem in ("comps_base", "comps_wugs_dist-before"):
        rows = [
            {
                "prefix_acceptable": f"A {n}",
                "prefix_unacceptable": "A car",
                "property_phrase": "can eat.",
            }
            for n in NOUNS
        ]
        write_lines(data / f"comps/{stem}.jsonl", rows)
    for name, endings in (
        ("wug_adj_nominalization", ("ity", "ness")),
        ("wug_past_tense", ("ed", "ung")),
    ):
        rows = [
            {"sentences": "\t".join(f"It is {n}{ending}" for ending in endings), "ratio": i / 7}
            for i, n in enumerate(NOUNS)
        ]
        write_lines(data / f"{name}/{name}.jsonl", rows)
    (data / "perplexity").mkdir()
    (data / "perplexity/text.txt").write_text("Once there was a fox.\n" + "It ran. " * 40 + "\n")
    return data


@pytest.fixture(scope="session")
def unpacked(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that unpacks an archive of real evaluation data, given its name without the
    suffix, and returns its folder."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            target = tmp_path_factory.mktemp(name)
            if name == "entity_tracking":
                with zipfile.ZipFile(data_folder / "eval/entity_tracking_babylm.PASSWORD.zip") as z:
                    z.extractall(target, pwd=b"iamnotaLM")
                made[name] = target
            else:
                with tarfile.open(data_folder / f"eval/{name}.tar.xz") as archive:
                    archive.extractall(target, filter="data")
                made[name] = target / name
        return made[name]

    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results/out"


@pytest.fixture
def run(cdgen: Run, small_data: Path, out: Path) -> Run:
    """Return a function that runs `cdgen eval` on models. Flags are given by keyword; None leaves
    one out."""

    def go(*models: Path, **flags: object) -> Any:
        given = {"data": small_data, "out": out, "tasks": TASKS, **flags}
        pairs = [(f"--{name}", value) for name, value in given.items() if value is not None]
        chosen = [x for model in models for x in ("--model", model)]
        return cdgen("eval", *chosen, *(x for pair in pairs for x in pair))

    return go


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record the (checkpoint, task) of every score computed from now on; a test may clear the
    list."""
    from cdgen.eval.report.results import ResultFolder

    done: list[tuple[str, str]] = []
    add = ResultFolder.add

    def recording(self: ResultFolder, task: str, *others: Any) -> None:
        done.append((self.document["config"]["model"], task))
        add(self, task, *others)

    monkeypatch.setattr(ResultFolder, "add", recording)
    return done
