"""Words and epochs by hand, and BabyLM's rules exactly at their limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig

from cdgen.checkpoint import open_checkpoint
from cdgen.corpus import NOTHING, Manifest
from cdgen.errors import UsageError
from cdgen.plan import Plan, PromptPlan, SamplingPlan
from cdgen.storage import write_record
from cdgen.train.budget import Budget, Reading, Text, write_budget
from cdgen.train.checkpoints import MARKER
from cdgen.train.run_budget import (
    experiment_budget,
    model_readings,
    tokenizer_readings,
    write_run_budget,
)
from cdgen.train.synthetic import manifest_sha256
from cdgen.train.tokenizer import for_transformers, train_tokenizer

Command = Callable[..., Any]

STRICT, SMALL = 100_000_000, 10_000_000
REAL = Text("real", "a", 9_000_000)
MORE = Text("real", "b", 1_000_000)
SYNTHETIC = Text("cd", "c", 95_000_000, synthetic=True)


def reading(role: Any, text: Text, epochs: Any = 1) -> Reading:
    return Reading(role, text, Fraction(epochs))


def holds(*readings: Reading) -> dict[str, bool]:
    """With a tokenizer of the first text."""
    budget = Budget((reading("tokenizer", readings[0].text), *readings))
    return {"strict": not budget.broken(STRICT), "strict-small": not budget.broken(SMALL)}


# ---- the rules ---------------------------------------------------------------------------------


def test_the_union_counts_a_text_once_and_a_synthetic_one_not_at_all() -> None:
    """Tokenizer and GOOD on 9M words, BAD on another 1M, the student on the 9M and 95M synthetic:
    10M source words, exactly what strict-small allows."""
    budget = Budget(
        (
            reading("tokenizer", REAL),
            reading("GOOD", REAL, 5),
            reading("BAD", MORE, 2),
            reading("student", REAL, 7),
            reading("student", SYNTHETIC, 3),
        )
    )
    assert (budget.source_words, budget.synthetic_words) == (10_000_000, 95_000_000)
    assert budget.broken(SMALL) == budget.broken(STRICT) == []
    assert [r.words_read for r in budget.readings] == [
        9_000_000, 45_000_000, 2_000_000, 63_000_000, 285_000_000
    ]  # fmt: skip


@pytest.mark.parametrize(("limit", "track"), [(STRICT, "strict"), (SMALL, "strict-small")])
def test_one_word_over_the_limit(limit: int, track: str) -> None:
    assert holds(reading("student", Text("real", "a", limit)))[track]
    over = (reading("student", Text("real", "a", limit)), reading("tokenizer", Text("t", "t", 1)))
    assert not holds(*over)[track]
    assert Budget(over).broken(limit) == [
        f"the union of all text has {limit + 1:,} source words, 1 too many"
    ]


@pytest.mark.parametrize("role", ["GOOD", "BAD", "student"])
def test_ten_epochs_are_allowed_and_not_a_block_more(role: str) -> None:
    assert holds(reading(role, REAL, 10)) == {"strict": True, "strict-small": True}
    more = reading(role, REAL, Fraction(100_001, 10_000))
    assert holds(more) == {"strict": False, "strict-small": False}
    assert Budget((reading("tokenizer", REAL), more)).broken(STRICT) == [
        f"{role} reads real 10.0001 times over, 10 at most"
    ]


def test_synthetic_text_has_epochs_too() -> None:
    good = reading("GOOD", REAL)
    assert holds(good, reading("student", SYNTHETIC, 10))["strict"]
    assert not holds(good, reading("student", SYNTHETIC, 11))["strict"]


def test_the_tokenizer_and_prompts_have_no_epochs() -> None:
    assert holds(reading("tokenizer", REAL, 11), reading("prompts", MORE, 11))["strict-small"]


def test_a_tokenizer_from_elsewhere_breaks_the_rules() -> None:
    assert Budget((reading("student", REAL),)).broken(STRICT) == [
        "the tokenizer was made elsewhere, of text that is not counted here"
    ]


def test_synthetic_text_of_models_that_are_not_counted_breaks_the_rules() -> None:
    """The student's 95M words may have cost anything; so may those that GOOD itself read."""
    alone = Budget((reading("tokenizer", REAL), reading("student", SYNTHETIC)))
    assert alone.broken(STRICT) == [
        "student reads cd, and what its models were trained on is not counted here"
    ]
    assert not holds(reading("GOOD", REAL), reading("GOOD", SYNTHETIC))["strict"]


def test_every_reason_is_given() -> None:
    big = Text("real", "a", STRICT + 1)
    reasons = Budget((reading("GOOD", big, 11), reading("BAD", big, 12))).broken(STRICT)
    assert len(reasons) == 4


def test_one_text_cannot_have_two_lengths() -> None:
    with pytest.raises(UsageError, match="9,000,000 words in one run and 8 in another"):
        Budget((reading("GOOD", REAL), reading("BAD", Text("real", "a", 8))))


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=12))
def test_the_union_does_not_depend_on_order_or_repetition(drawn: list[tuple[str, bool]]) -> None:
    readings = [
        reading("GOOD" if good else "BAD", Text(name, name, 10 ** "abcd".index(name)))
        for name, good in drawn
    ]
    union = sum(10 ** "abcd".index(name) for name in {name for name, _ in drawn})
    assert Budget(tuple(readings)).source_words == union
    assert Budget(tuple(readings[::-1] * 2)).source_words == union


# ---- what a run read ---------------------------------------------------------------------------


def write_run(
    folder: Path,
    *,
    repeat: int = 1,
    seed: int = 0,
    cd: Path | bool = False,
    gap: float | None = None,
    tokenizer: str = "byte-level",
) -> Path:
    """400 steps of 8 sequences: 3,200. Real text has 480 blocks; with `cd`, a quarter of the
    sequences is from a corpus of 70."""
    sources = [
        {"name": "a", "path": "a.xz", "licence": "x", "validation": 4, "repeat": repeat},
        {"name": "b", "path": "b.xz", "licence": "x", "validation": 4, "repeat": 1},
    ]
    manifests = {"cd": manifest_sha256(cd) if isinstance(cd, Path) else "f" * 64} if cd else {}
    streams = {"real": {"sequences": 3_200, "epochs": 3_200 / 480}}
    if cd:
        streams = {
            "real": {"sequences": 2_400, "epochs": 2_400 / 480},
            "cd": {"sequences": 800, "epochs": 800 / 70},
        }
    folder.mkdir()
    synthetic = {"corpora": [{"name": "cd", "path": str(cd)}]} if cd else None
    recipe = {"tokenizer": tokenizer, "seed": seed, "sources": sources, "manifests": manifests}
    recipe |= {"synthetic": synthetic, "bad_gap": gap}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "mixture.json").write_text(json.dumps({"steps": 400, "streams": streams}))
    return folder


def test_epochs_of_a_step_are_exact(tmp_path: Path) -> None:
    """By step 60, 480 sequences of 480 blocks were read: one epoch, though 20/3 is no float."""
    run = write_run(tmp_path / "run")
    words = {"real": 1_000}
    assert [r.epochs for r in model_readings(run, "GOOD", words)] == [Fraction(20, 3)]
    [early] = model_readings(run, "BAD", words, step=60)
    assert (early.role, early.epochs, early.words_read) == ("BAD", Fraction(1), 1_000)


def test_copies_of_a_source_are_epochs_of_it(tmp_path: Path) -> None:
    """Source a stands three times in every epoch: by step 200, 10/3 of them, it was read ten times,
    which is just allowed; one step more is not."""
    run = write_run(tmp_path / "run", repeat=3)
    words = {"real": 1_000}
    at, after = (model_readings(run, "GOOD", words, step=step) for step in (200, 201))
    assert at[0].epochs == 10
    assert holds(*at)["strict-small"] and not holds(*after)["strict-small"]
    assert tokenizer_readings(run, words)[0].epochs == 3


def test_an_existing_tokenizer_has_no_reading(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tokenizer="some/folder")
    assert tokenizer_readings(run, {"real": 1_000}) == []


def test_a_student_reads_two_texts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", cd=True)
    real, cd = model_readings(run, "student", {"real": 1_000, "cd": 700})
    assert (real.epochs, real.text.synthetic) == (Fraction(5), False)
    assert (cd.epochs, cd.text, cd.words_read) == (
        Fraction(80, 7), Text("cd", "f" * 64, 700, synthetic=True), 8_000
    )  # fmt: skip


def test_runs_on_the_same_sources_share_their_text(tmp_path: Path) -> None:
    words = {"real": 1_000, "cd": 700}
    runs = [
        write_run(tmp_path / "good"),
        write_run(tmp_path / "student", cd=True, repeat=2),  # the same documents, some copied
        write_run(tmp_path / "other", seed=1),  # another part held out
    ]
    texts = [model_readings(run, "GOOD", words)[0].text for run in runs]
    assert texts[0] == texts[1] != texts[2]


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*recipe\.json"):
        model_readings(tmp_path, "GOOD", {"real": 1})


def write_checkpoint(run: Path, step: int, loss: float, save_random: Callable[..., Path]) -> Path:
    folder = run / "checkpoints" / f"checkpoint-{step}"
    config = LlamaConfig(
        vocab_size=300, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    save_random(config, folder, seed=step)
    for_transformers(train_tokenizer(["a fox"], 300), 64).save_pretrained(folder)
    (folder / MARKER).write_text(json.dumps({"step": step}))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "validation": {"all": loss}}) + "\n")
    return folder


def write_corpus(folder: Path, good: Path, bad: str) -> Path:
    """The manifest of a corpus of these models: 40 prompts of at most 20 tokens."""
    plan = Plan(
        cdgen_version="0", prompts=PromptPlan(source_sha256="s", tokens_sha256="t", count=40,
        prompt_tokens=20), good_sha256=open_checkpoint(good).sha256, bad=bad,
        sampling=SamplingPlan(good_weight=1, bad_weight=1, alpha=0.1, temperature=1, top_k=0,
        top_p=1, min_p=0), strategy="cd", seed=0, sequences_per_prompt=1, num_sequences=40,
        max_new_tokens=8, on_eos="stop", eos_token_ids=(2,), vocab_size=300, logprobs=False,
        slots=16, range_size=16, dtype="float32", device="cpu", decoder="lean", backend="cpu",
    )  # fmt: skip
    folder.mkdir()
    manifest = Manifest(plan=plan, plan_sha256=plan.sha256, files=(), totals=NOTHING)
    write_record(folder / "manifest.json", manifest.model_dump(mode="json"))
    return folder


def test_a_whole_experiment(tmp_path: Path, save_random: Callable[..., Path]) -> None:
    """GOOD at step 300, BAD at step 60 of the same run, dropout of GOOD beside it, and a student on
    the same real text, which has 1,000 words; 40 prompts of 20 tokens have at most 800."""
    base = write_run(tmp_path / "base", gap=0.5)
    bad = write_checkpoint(base, 60, 4.0, save_random)
    good = write_checkpoint(base, 300, 3.0, save_random)
    write_run_budget(base, {"real": 1_000})
    corpus = write_corpus(tmp_path / "corpus", good, open_checkpoint(bad).sha256)
    student = write_run(tmp_path / "student", cd=corpus)
    write_run_budget(student, {"real": 1_000, "cd": 700})
    budget = experiment_budget(good, [str(bad), "dropout:.5"], student)
    assert [(r.role, r.text.name, r.epochs) for r in budget.readings] == [
        ("tokenizer", "real", 1),
        ("GOOD", "real", 5),
        ("BAD", "real", 1),
        ("BAD", "real", 5),
        ("prompts", "prompts", 1),
        ("student", "real", 5),
        ("student", "cd", Fraction(80, 7)),
    ]
    assert (budget.source_words, budget.synthetic_words) == (1_800, 700)
    assert budget.broken(SMALL) == ["student reads cd 11.42857143 times over, 10 at most"]
    # Alone, a run knows its own part.
    found = json.loads((base / "budget.json").read_text())["readings"]
    assert [(r["reader"], r["epochs"]) for r in found] == [
        ("tokenizer", 1.0), ("GOOD", 5.0), ("BAD", 1.0)
    ]  # fmt: skip
    alone = json.loads((student / "budget.json").read_text())["rules"]["strict"]["broken"]
    assert "student reads cd, and what its models were trained on is not counted here" in alone


def test_the_command_takes_the_models_from_pair_files(
    tmp_path: Path, save_random: Callable[..., Path], cdgen: Command
) -> None:
    base = write_run(tmp_path / "base", gap=0.5)
    bad, good = (write_checkpoint(base, s, 4 - s / 300, save_random) for s in (60, 300))
    write_run_budget(base, {"real": 1_000})
    corpus = write_corpus(tmp_path / "corpus", good, "dropout:0.5")
    student = write_run(tmp_path / "student", cd=corpus)
    write_run_budget(student, {"real": 1_000, "cd": 700})
    for name, model, other in (("a", good, bad), ("b", good, "dropout:0.5"), ("c", bad, bad)):
        (tmp_path / f"{name}.yaml").write_text(f"good: {model}\nbad: {other}\n")
    pairs = {name: ("--pair", tmp_path / f"{name}.yaml") for name in "abc"}
    command = ("train", "--budget", student, "--out", tmp_path / "found")
    ended = cdgen(*command, *pairs["a"], *pairs["b"])
    assert ended.code == 0, ended.err
    assert ended.out == (tmp_path / "found/budget.md").read_text()
    found = json.loads((tmp_path / "found/budget.json").read_text())["readings"]
    roles = [r["reader"] for r in found]
    assert roles == ["tokenizer", "GOOD", "BAD", "BAD", "prompts", "student", "student"]
    assert "made with another BAD" in cdgen(*command, *pairs["a"]).err
    assert "expected files with one GOOD" in cdgen(*command, *pairs["b"], *pairs["c"]).err


def test_an_experiment_of_other_models(tmp_path: Path, save_random: Callable[..., Path]) -> None:
    base = write_run(tmp_path / "base", gap=0.5)
    bad, good = (write_checkpoint(base, s, 4 - s / 300, save_random) for s in (60, 300))
    write_run_budget(base, {"real": 1_000})
    corpus = write_corpus(tmp_path / "corpus", good, "dropout:0.5")
    student = write_run(tmp_path / "student", cd=corpus)
    with pytest.raises(UsageError, match=r"budget\.json"):
        experiment_budget(good, ["dropout:0.5"], student)
    write_run_budget(student, {"real": 1_000, "cd": 700})
    experiment_budget(good, ["dropout:0.5"], student)
    with pytest.raises(UsageError, match="made with another BAD"):
        experiment_budget(good, [str(bad)], student)
    with pytest.raises(UsageError, match="made with another GOOD"):
        experiment_budget(bad, ["dropout:0.5"], student)
    manifest = corpus / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with pytest.raises(UsageError, match="not the corpus that"):
        experiment_budget(good, ["dropout:0.5"], student)


# ---- the report --------------------------------------------------------------------------------


def test_the_report_as_json_and_as_a_table(tmp_path: Path) -> None:
    budget = Budget(
        (
            reading("tokenizer", REAL),
            reading("GOOD", REAL, "10.5"),
            reading("student", SYNTHETIC, "0.5"),
        )
    )
    write_budget(budget, tmp_path)
    found = json.loads((tmp_path / "budget.json").read_text())
    assert (found["source_words"], found["synthetic_words"]) == (9_000_000, 95_000_000)
    assert found["readings"][1]["words_read"] == 94_500_000
    assert found["rules"]["strict"] == {
        "words": STRICT,
        "epochs": 10,
        "broken": ["GOOD reads real 10.5 times over, 10 at most"],
    }
    text = (tmp_path / "budget.md").read_text()
    assert "| student | cd (synthetic) | 95,000,000 | 0.50 | 47,500,000 |" in text
    assert "- strict (100,000,000 words, 10 epochs): does not hold: GOOD reads real" in text
    assert "strict-small (10,000,000 words, 10 epochs): does not hold" in text
    kept = Budget((reading("tokenizer", REAL), reading("GOOD", REAL))).markdown()
    assert "- strict-small (10,000,000 words, 10 epochs): holds\n" in kept
