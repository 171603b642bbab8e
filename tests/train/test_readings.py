"""What runs read, from what they recorded: words and epochs by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_budget import REAL, SMALL, STRICT, reading
from toy_run import RECIPE, generate_demo_corpus
from transformers import LlamaConfig

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.corpus.manifest import Manifest
from cdgen.corpus.plan import Plan, PromptPlan, SamplingPlan
from cdgen.corpus.rows import NOTHING
from cdgen.errors import UsageError
from cdgen.storage import write_record as write_checked
from cdgen.train.budget import Budget, Text
from cdgen.train.checkpoints import MARKER
from cdgen.train.config import Recipe
from cdgen.train.data.synthetic import manifest_sha256
from cdgen.train.data.tokenizer import for_transformers, tokenizer_identity, train_tokenizer
from cdgen.train.data.training_data import build_training_data
from cdgen.train.loop import train_recipe
from cdgen.train.readings import (
    experiment_budget,
    model_readings,
    tokenizer_readings,
    write_run_budget,
)
from cdgen.train.record import Record, write_record

Command = Callable[..., Any]


A, B = Text("a", "a" * 64, 600), Text("b", "b" * 64, 400)
CD = Text("cd", "f" * 64, 700, synthetic=True)


def write_run(
    folder: Path,
    *,
    repeat: int = 1,
    cd: Path | bool = False,
    gap: float | None = None,
    tokenizer: str = "byte-level",
    texts: tuple[Text, ...] = (A, B),
) -> Path:
    """Write a run of 400 steps of 8 sequences: 3,200. Real text has 480 blocks; with `cd`, a
    quarter of the sequences come from a corpus of 70. `repeat` is that of the first source."""
    sources = [
        {"name": t.name, "path": "a.xz", "licence": "x", "split": "rows", "repeat": repeat**first}
        for t, first in zip(texts, (1, 0), strict=False)
    ]
    streams = {"real": {"sequences": 3_200, "epochs": 3_200 / 480}}
    found: dict[str, Any] = {"source_sha256": {}, "manifests": {}}
    if cd:
        streams = {
            "real": {"sequences": 2_400, "epochs": 2_400 / 480},
            "cd": {"sequences": 800, "epochs": 800 / 70},
        }
        found["synthetic"] = {"ratio": 0.25, "corpora": [{"name": "cd", "path": str(cd)}]}
        found["manifests"] = {"cd": manifest_sha256(cd) if isinstance(cd, Path) else CD.sha256}
        texts = (*texts, CD)
    folder.mkdir()
    record = {**RECIPE, "sources": sources, "tokenizer": tokenizer, "bad_gap": gap, **found}
    write_record(folder, Record.model_validate(record))
    mixture = {"steps": 400, "streams": streams, "texts": {t.name: t.facts for t in texts}}
    (folder / "mixture.json").write_text(json.dumps(mixture))
    return folder


def test_epochs_of_a_step_are_exact(tmp_path: Path) -> None:
    """By step 60, 480 sequences of 480 blocks were read: one epoch, although 20/3 is no float."""
    run = write_run(tmp_path / "run")
    assert [r.epochs for r in model_readings(run, "GOOD")] == [Fraction(20, 3)] * 2
    early, _ = model_readings(run, "BAD", step=60)
    assert (early.role, early.text, early.epochs, early.words_read) == ("BAD", A, Fraction(1), 600)


def test_copies_of_a_source_are_epochs_of_it_alone(tmp_path: Path) -> None:
    """Source a is in every epoch three times: by step 200, 10/3 epochs, it was read ten times,
    which is just allowed; one step more is not. Source b was read 10/3 times."""
    run = write_run(tmp_path / "run", repeat=3)
    [a, b] = model_readings(run, "GOOD", step=200)
    assert (a.epochs, b.epochs) == (10, Fraction(10, 3))
    assert (a.words_read, b.words_read) == (6_000, 1_333)
    assert Budget((a, b, *tokenizer_readings(run))).broken(SMALL) == []
    more = Budget((*model_readings(run, "GOOD", step=201), *tokenizer_readings(run)))
    assert more.broken(SMALL) == ["GOOD reads a 10.05 times over, 10 at most"]
    assert [r.epochs for r in tokenizer_readings(run)] == [3, 1]


def test_one_text_under_two_sources_is_read_as_often_as_both_say(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", repeat=3, texts=(A, Text("again", A.sha256, A.words)))
    [both] = model_readings(run, "GOOD", step=60)
    assert (both.text, both.epochs) == (A, 4)


def test_an_existing_tokenizer_has_no_reading(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tokenizer="some/folder")
    assert tokenizer_readings(run) == []


def test_a_tokenizer_of_another_run_has_the_readings_of_that_run(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", repeat=3)
    made = for_transformers(train_tokenizer(["a fox"], 300), 64)
    for place in ("model", "checkpoints/checkpoint-400"):
        folder = base / place
        made.save_pretrained(folder)
        student = write_run(tmp_path / f"student-{folder.name}", tokenizer=str(folder))
        # Nothing says that the tokenizer is still the one that the student was trained with.
        assert tokenizer_readings(student) == []
        record = Record.model_validate_json((student / "recipe.json").read_bytes())
        found = {"tokenizer_sha256": tokenizer_identity(folder)}
        write_record(student, record.model_copy(update=found))
        assert tokenizer_readings(student) == tokenizer_readings(base) != []


def test_a_student_reads_real_and_synthetic_text(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", cd=True)
    a, b, cd = model_readings(run, "student")
    assert [(r.text, r.epochs) for r in (a, b)] == [(A, 5), (B, 5)]
    assert (cd.epochs, cd.text, cd.words_read) == (Fraction(80, 7), CD, 8_000)


def test_a_synthetic_source_is_never_counted_even_beside_good() -> None:
    """The models that wrote it are not looked up, and it adds no source words."""
    source = Text("cd", "c", 95, synthetic=True, traced=False)
    says = "reads cd, and what its models were trained on is not counted here"
    budget = Budget(
        (reading("tokenizer", source), reading("GOOD", REAL), reading("student", source))
    )
    assert budget.source_words == REAL.words
    assert budget.broken(STRICT) == [f"tokenizer {says}", f"student {says}"]


def test_a_corpus_as_a_source_brings_no_source_words_and_breaks_the_rules(
    tmp_path: Path, one_thread: None
) -> None:
    generate_demo_corpus(tmp_path / "cd", max_new_tokens=20)
    source = {**RECIPE["sources"][0], "name": "cd", "path": "cd", "split": "rows"}  # type: ignore[index]
    training = {**RECIPE["training"], "steps": 2, "checkpoint_every": 2}
    recipe = {**RECIPE, "bad_gap": None, "sources": [source], "training": training}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    train_recipe(tmp_path / "recipe.yaml", tmp_path, tmp_path / "run")
    budget = json.loads((tmp_path / "run/budget.json").read_text())
    assert budget["source_words"] == 0
    says = "reads cd, and what its models were trained on is not counted here"
    assert budget["rules"]["strict"]["broken"] == [f"tokenizer {says}", f"student {says}"]


def test_a_text_is_its_documents(tmp_path: Path) -> None:
    """Its place, name, order, the other sources and held-out documents do not matter."""
    lines = [f"Line {i} of it." for i in range(100)]

    def texts(*given: tuple[str, list[str]], **fields: Any) -> dict[str, Text]:
        for name, content in given:
            (tmp_path / f"{name}.txt").write_text("\n".join(content))
        fixed = {"licence": "none", "split": "rows", "validation": 0.2, "prompts": 0}
        sources = [{"name": name, "path": f"{name}.txt", **fixed} for name, _ in given]
        recipe = Recipe.model_validate({**RECIPE, "sources": sources, **fields})
        return build_training_data(recipe, tmp_path).texts

    known = texts(("one", lines))["one"]
    others = [f"Another line, {i}." for i in range(100)]
    turned = texts(("other", others), ("turned", lines[::-1]))
    assert (turned["turned"].sha256, turned["turned"].words) == (known.sha256, known.words)
    assert turned["other"].sha256 != known.sha256
    assert texts(("one", [*lines[:-1], "Line 99 of that."]))["one"].sha256 != known.sha256
    assert texts(("one", lines), split_seed=1)["one"].sha256 != known.sha256
    assert texts(("one", lines), seed=1, split_seed=0)["one"].sha256 == known.sha256


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*recipe\.json"):
        write_run_budget(tmp_path)
    run = write_run(tmp_path / "run")
    (run / "mixture.json").write_text(json.dumps({"steps": 400, "streams": {}}))
    with pytest.raises(UsageError, match=r"mixture\.json is of another version.*again"):
        model_readings(run, "GOOD")


def write_checkpoint(run: Path, step: int, loss: float, save_random: Callable[..., Path]) -> Path:
    folder = run / "checkpoints" / f"checkpoint-{step}"
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    save_random(config, folder, seed=step)
    for_transformers(train_tokenizer(["a fox"], 300), 64).save_pretrained(folder)
    (folder / MARKER).write_text(json.dumps({"step": step}))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "validation": {"all": loss}}) + "\n")
    return folder


def write_corpus(folder: Path, good: Path, bad: str) -> Path:
    """Write the manifest of a corpus of these models: 40 prompts of at most 20 tokens."""
    plan = Plan(
        cdgen_version="0",
        prompts=PromptPlan(source_sha256="s", tokens_sha256="t", count=40, prompt_tokens=20),
        good_sha256=open_checkpoint(good).sha256,
        bad=bad,
        sampling=SamplingPlan(
            good_weight=1, bad_weight=1, alpha=0.1, temperature=1, top_k=0, top_p=1, min_p=0
        ),
        strategy="cd",
        seed=0,
        sequences_per_prompt=1,
        num_sequences=40,
        max_new_tokens=8,
        on_eos="stop",
        eos_token_ids=(2,),
        vocab_size=300,
        logprobs=False,
        slots=16,
        range_size=16,
        dtype="float32",
        device="cpu",
        decoder="lean",
        backend="cpu",
    )
    folder.mkdir()
    manifest = Manifest(plan=plan, plan_sha256=plan.sha256, files=(), totals=NOTHING)
    write_checked(folder / "manifest.json", manifest.model_dump(mode="json"))
    return folder


def test_the_budget_of_a_whole_experiment_has_every_reading(
    tmp_path: Path, save_random: Callable[..., Path]
) -> None:
    """GOOD is step 300, BAD step 60 of the same run, dropout of GOOD is another BAD, and the
    student read the same real text, which has 1,000 words; 40 prompts of 20 tokens have at most
    800."""
    base = write_run(tmp_path / "base", gap=0.5)
    bad = write_checkpoint(base, 60, 4.0, save_random)
    good = write_checkpoint(base, 300, 3.0, save_random)
    write_run_budget(base)
    corpus = write_corpus(tmp_path / "corpus", good, open_checkpoint(bad).sha256)
    student = write_run(tmp_path / "student", cd=corpus)
    write_run_budget(student)
    budget = experiment_budget(good, [str(bad), "dropout:.5"], student)
    assert [(r.role, r.text.name, r.epochs) for r in budget.readings] == [
        *(("tokenizer", name, 1) for name in "ab"),
        *(("GOOD", name, 5) for name in "ab"),
        *(("BAD", name, 1) for name in "ab"),
        *(("BAD", name, 5) for name in "ab"),
        ("prompts", "prompts", 1),
        *(("student", name, 5) for name in "ab"),
        ("student", "cd", Fraction(80, 7)),
    ]
    assert (budget.source_words, budget.synthetic_words) == (1_800, 700)
    assert budget.broken(SMALL) == ["student reads cd 11.42857143 times over, 10 at most"]
    # Alone, a run knows its own part.
    found = json.loads((base / "budget.json").read_text())["readings"]
    assert [(r["reader"], r["epochs"]) for r in found] == [
        (role, epochs) for role, epochs in (("tokenizer", 1), ("GOOD", 5), ("BAD", 1)) for _ in "ab"
    ]
    alone = json.loads((student / "budget.json").read_text())["rules"]["strict"]["broken"]
    assert "student reads cd, and what its models were trained on is not counted here" in alone


def test_the_command_takes_the_models_from_pair_files(
    tmp_path: Path, save_random: Callable[..., Path], cdgen: Command
) -> None:
    base = write_run(tmp_path / "base", gap=0.5)
    bad, good = (write_checkpoint(base, s, 4 - s / 300, save_random) for s in (60, 300))
    write_run_budget(base)
    corpus = write_corpus(tmp_path / "corpus", good, "dropout:0.5")
    student = write_run(tmp_path / "student", cd=corpus)
    write_run_budget(student)
    for name, model, other in (("a", good, bad), ("b", good, "dropout:0.5"), ("c", bad, bad)):
        (tmp_path / f"{name}.yaml").write_text(f"good: {model}\nbad: {other}\n")
    pairs = {name: ("--pair", tmp_path / f"{name}.yaml") for name in "abc"}
    command = ("train", "--budget", student, "--out", tmp_path / "found")
    ended = cdgen(*command, *pairs["a"], *pairs["b"])
    assert ended.code == 0, ended.err
    assert ended.out == (tmp_path / "found/budget.md").read_text()
    found = json.loads((tmp_path / "found/budget.json").read_text())["readings"]
    roles = [r["reader"] for r in found]
    of_both = ["tokenizer", "GOOD", "BAD", "BAD"]
    assert roles == [role for role in of_both for _ in "ab"] + ["prompts", *["student"] * 3]
    assert "made with another BAD" in cdgen(*command, *pairs["a"]).err
    assert "expected files with one GOOD" in cdgen(*command, *pairs["b"], *pairs["c"]).err


def test_an_experiment_with_other_models_is_refused(
    tmp_path: Path, save_random: Callable[..., Path]
) -> None:
    base = write_run(tmp_path / "base", gap=0.5)
    bad, good = (write_checkpoint(base, s, 4 - s / 300, save_random) for s in (60, 300))
    write_run_budget(base)
    corpus = write_corpus(tmp_path / "corpus", good, "dropout:0.5")
    student = write_run(tmp_path / "student", cd=corpus)
    experiment_budget(good, ["dropout:0.5"], student)
    with pytest.raises(UsageError, match="made with another BAD"):
        experiment_budget(good, [str(bad)], student)
    with pytest.raises(UsageError, match="made with another GOOD"):
        experiment_budget(bad, ["dropout:0.5"], student)
    manifest = corpus / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with pytest.raises(UsageError, match="not the corpus that"):
        experiment_budget(good, ["dropout:0.5"], student)
