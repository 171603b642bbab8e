"""Fine-tuning on GLUE classifies the right token, depends on the seed alone, and names bad
input."""

from __future__ import annotations

import json
import math
import random
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, Trainer

from cdgen.errors import ModelError, UsageError
from cdgen.eval.tasks import glue
from cdgen.eval.tasks.glue import GlueOutcome, accuracy, f1, fine_tune
from cdgen.eval.tasks.glue_examples import GLUE_TASKS, encode, read_examples

EOS = "</s>"
NAMES = ("Tom", "Lily", "Ben", "Sue", "Max")
THINGS = ("big cat", "red ball", "small hat", "new dog")

Fields = dict[str, Any]


@pytest.fixture
def model(data_folder: Path) -> Path:
    return data_folder / "models" / "stories260k" / "good"


@pytest.fixture
def gpt2(model: Path, tmp_path: Path) -> Path:
    """Save a small random GPT-2 (learned positions, dropout 0.1) with the tokenizer of `model`."""
    folder = tmp_path / "gpt2"
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=512, n_positions=512, n_embd=32, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, folder)
    return folder


@pytest.fixture
def real(data_folder: Path, tmp_path: Path) -> Path:
    with tarfile.open(data_folder / "eval" / "glue_filtered_subset.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "glue_filtered"


@pytest.fixture
def run(model: Path, tmp_path: Path) -> Callable[..., GlueOutcome]:
    """Return a function that fine-tunes `model` on boolq, with given lines as its two files."""

    def run(train: Sequence[Fields], valid: Sequence[Fields], **options: Any) -> GlueOutcome:
        data = write(tmp_path, "boolq", train, valid)
        (tmp_path / "work").mkdir(exist_ok=True)
        chosen: dict[str, Any] = {"folder": model, "device": "cpu"} | options
        return fine_tune(data=data, task="boolq", work=tmp_path / "work", **chosen)

    return run


def write(folder: Path, task: str, train: Sequence[Fields], valid: Sequence[Fields]) -> Path:
    for part, rows in (("train", train), ("valid", valid)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{task}.{part}.jsonl").write_text(lines)
    return folder


def moods(count: int, seed: int) -> list[Fields]:
    """Return lines with label 1 if they begin happily; all that follows, the last token included,
    is unrelated to the label."""
    draw = random.Random(seed)
    return [
        {
            "question": "He is happy." if n % 2 else "He is sad.",
            "passage": f"{draw.choice(NAMES)} has a {draw.choice(THINGS)}.",
            "label": n % 2,
        }
        for n in range(count)
    ]


def test_a_difference_that_the_last_token_can_see_is_learned(
    run: Callable[..., GlueOutcome], device: str
) -> None:
    outcome = run(moods(64, 1), moods(100, 2), epochs=20, device=device)
    assert accuracy(outcome.predictions, outcome.labels) > 0.95
    assert outcome.epoch == 20
    assert outcome.scores.shape == (100, 2)
    assert (outcome.predictions == outcome.scores.argmax(-1)).all()


@pytest.mark.thorough
def test_labels_that_have_nothing_to_do_with_the_text_are_not_predicted(
    run: Callable[..., GlueOutcome],
) -> None:
    draw = random.Random(0)
    train, valid = (
        [row | {"label": draw.randrange(2)} for row in moods(count, 1)] for count in (64, 100)
    )
    outcome = run(train, valid, epochs=20)
    # The limit is four standard deviations above chance.
    assert accuracy(outcome.predictions, outcome.labels) < 0.5 + 4 * math.sqrt(0.25 / 100)


def test_scored_labels_and_neighbours_do_not_change_a_score(
    run: Callable[..., GlueOutcome],
) -> None:
    train, valid = moods(32, 1), moods(70, 2)
    outcome = run(train, valid, epochs=2)
    flipped = run(train, [row | {"label": 1 - row["label"]} for row in valid], epochs=2)
    assert (flipped.scores == outcome.scores).all()
    assert (flipped.labels == 1 - outcome.labels).all()
    backwards = run(train, valid[::-1], epochs=2)
    np.testing.assert_allclose(backwards.scores[::-1], outcome.scores, atol=1e-5)


def test_the_seed_fixes_every_bit_and_nothing_is_left_behind(
    run: Callable[..., GlueOutcome], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, again, other = (run(moods(32, 1), moods(8, 2), epochs=2, seed=n) for n in (1, 1, 2))
    assert (first.scores == again.scores).all()
    assert not np.allclose(first.scores, other.scores, atol=1e-3)
    assert list((tmp_path / "work").iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_order_of_the_training_lines_follows_the_seed(model: Path, tmp_path: Path) -> None:
    rows = [{"input_ids": [1, 300 + n], "labels": n % 2} for n in range(40)]
    scores = []
    for seed in (1, 2):
        classifier, _ = glue.load_classifier(model, 2, "cpu", seed=0)
        arguments = glue.training_arguments(GLUE_TASKS["rte"], tmp_path, "cpu", seed, 1, False)
        scores.append(glue.train_and_score(classifier, rows, rows, arguments))
    assert (scores[0] != scores[1]).any()


@pytest.mark.parametrize("kind", ["model", "gpt2"])
def test_the_last_real_token_is_classified(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Short and long texts stand side by side, and some end in the special tokens."""
    classifier, tokenizer = glue.load_classifier(request.getfixturevalue(kind), 2, "cpu", seed=0)
    texts = ["a", f"a{EOS}", f"a{EOS}{EOS}", "a<unk>", "a<s>", "a" + " dog and a cat" * 20]
    rows = [{"input_ids": tokenizer(t).input_ids, "labels": n % 2} for n, t in enumerate(texts)]
    assert rows[1]["input_ids"][-1] == tokenizer.eos_token_id
    arguments = glue.training_arguments(GLUE_TASKS["rte"], tmp_path, "cpu", 0, 1, False)
    (scores,) = glue.train_and_score(classifier, rows, rows, arguments)
    classifier.eval()
    for row, score in zip(rows, scores, strict=True):
        tokens = torch.tensor([row["input_ids"]])
        with torch.inference_mode():
            last = classifier.base_model(input_ids=tokens).last_hidden_state[0, -1]
            np.testing.assert_allclose(score, last @ classifier.score.weight.T, atol=1e-5)


def test_the_tokenizers_padding_changes_no_bit(
    run: Callable[..., GlueOutcome], model: Path, tmp_path: Path
) -> None:
    left = shutil.copytree(model, tmp_path / "left")
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left", pad_token=EOS)
    tokenizer.save_pretrained(left)
    valid = [row | {"passage": row["passage"] + EOS * (n % 3)} for n, row in enumerate(moods(8, 2))]
    outcomes = [run(moods(32, 1), valid, epochs=1, folder=folder) for folder in (model, left)]
    assert (outcomes[0].scores == outcomes[1].scores).all()


def test_scoring_every_epoch_does_not_disturb_the_training(
    run: Callable[..., GlueOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[np.ndarray] = []
    real = glue.train_and_score

    def keep(*arguments: Any) -> np.ndarray:
        kept.append(real(*arguments))
        return kept[-1]

    monkeypatch.setattr(glue, "train_and_score", keep)
    last, best = (run(moods(32, 1), moods(8, 2), epochs=3, best_epoch=b) for b in (False, True))
    assert [len(scores) for scores in kept] == [1, 3]
    assert (kept[1][-1] == last.scores).all()
    assert (kept[1][best.epoch - 1] == best.scores).all()


@pytest.mark.parametrize(("task", "best"), [("rte", 2), ("mrpc", 3)])
def test_the_best_epoch_is_the_first_with_the_best_metric(
    task: str, best: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels are 0001: the second and fourth epoch get 3 of 4 right, but only the third finds
    the 1."""
    predicted = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]])
    monkeypatch.setattr(glue, "train_and_score", lambda *_: np.eye(2)[predicted])
    rows = [{"sentence1": "a", "sentence2": "b", "label": int(n == 3)} for n in range(4)]
    write(tmp_path, task, rows, rows)
    outcome = fine_tune(model, tmp_path, task, tmp_path, device="cpu", best_epoch=True)
    assert outcome.epoch == best
    assert outcome.predictions.tolist() == predicted[best - 1].tolist()


def test_the_learning_rate_is_the_official_one(tmp_path: Path) -> None:
    arguments = glue.training_arguments(GLUE_TASKS["rte"], tmp_path, "cpu", 0, 10, False)
    optimizer = torch.optim.SGD([torch.zeros(1)], arguments.learning_rate)
    scheduler = Trainer(args=arguments, model=torch.nn.Linear(1, 1)).create_scheduler(
        num_training_steps=100, optimizer=optimizer
    )
    rates = []
    for _ in range(101):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    halfway = (1 + 0.1) / 2
    expected = {0: 0.0, 3: 0.5, 6: 1.0, 53: halfway, 100: 0.1}
    assert {n: rates[n] / 3e-5 for n in expected} == pytest.approx(expected)


def test_logits_keep_their_precision_under_autocast(model: Path) -> None:
    classifier, _ = glue.load_classifier(model, 2, "cpu", seed=0)
    classifier.config.pad_token_id = 0
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier(input_ids=torch.tensor([[1, 300, 400]])).logits
    assert logits.dtype == torch.float32
    assert (logits != logits.bfloat16().float()).any()


@pytest.mark.parametrize("task", ["boolq", "rte", "wsc", "mnli"])
def test_the_real_files_are_read_whole(task: str, real: Path, model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    path = real / f"{task}.valid.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:200]))
    rows = read_examples(path, GLUE_TASKS[task], tokenizer, limit=512)
    first = json.loads(path.read_text().splitlines()[0])
    assert len(rows) == len(path.read_text().splitlines())
    assert {row["labels"] for row in rows} == set(range(GLUE_TASKS[task].labels))
    assert max(len(row["input_ids"]) for row in rows) <= 512
    text = tokenizer.decode(rows[0]["input_ids"], skip_special_tokens=True)
    assert text == GLUE_TASKS[task].text.format(**first)


def test_three_labels_are_trained_on_real_lines(real: Path, model: Path, tmp_path: Path) -> None:
    for part in ("train", "valid"):
        path = real / f"mnli.{part}.jsonl"
        short = [line for line in path.read_text().splitlines(keepends=True) if len(line) < 150]
        path.write_text("".join(short[:64]))
    outcome = fine_tune(model, real, "mnli", tmp_path / "work", device="cpu", epochs=1)
    assert outcome.scores.shape == (64, 3)
    assert outcome.labels.max() == 2


def test_the_longest_field_is_cut_and_the_others_survive(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    for premise in ("the cat sat on the mat, " * 100, "☃" * 900):  # tokens are words, then bytes
        fields = {"premise": premise, "hypothesis": "A cat sat."}
        tokens = encode(fields, GLUE_TASKS["mnli"].text, tokenizer, limit=100)
        text = str(tokenizer.decode(tokens, skip_special_tokens=True))
        kept, hypothesis = text.split("\n")
        assert hypothesis == "A cat sat."
        assert kept and premise.startswith(kept)
        assert 97 <= len(tokens) <= 100
    with pytest.raises(ModelError, match="context of 2 tokens is too short"):
        encode(fields, GLUE_TASKS["mnli"].text, tokenizer, limit=2)


def test_a_special_token_that_is_spelled_out_is_text(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    fields = {"premise": "It ran.</s>", "hypothesis": "A cat sat."}
    tokens = encode(fields, GLUE_TASKS["mnli"].text, tokenizer, limit=100)
    assert tokenizer.eos_token_id not in tokens
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "It ran.</s>\nA cat sat."


def test_metrics() -> None:
    predictions, labels = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 1, 0, 1])
    assert accuracy(predictions, labels) == 3 / 5
    assert f1(predictions, labels) == pytest.approx(2 / 3)  # 2 hits among 3 predicted and 3 true
    assert f1(np.zeros(3), np.zeros(3)) == 0.0
    assert f1(np.zeros(3), np.ones(3)) == 0.0


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", "JSONDecodeError"),
        ("{", "JSONDecodeError"),
        ("[" * 100_000, "RecursionError"),
        ("[1]", "TypeError"),
        ('{"question": "a", "label": 0}', "KeyError\\('passage'\\)"),
        ('{"question": "a", "passage": "b"}', "KeyError\\('label'\\)"),
        ('{"question": "a", "passage": 3, "label": 0}', "expected str instance, int found"),
        ('{"question": "a", "passage": "\\ud800", "label": 0}', "surrogates not allowed"),
        ('{"question": "a", "passage": "b", "label": 2}', "label 0 to 1, found 2"),
        ('{"question": "a", "passage": "b", "label": true}', "label 0 to 1, found True"),
        ('{"question": "a", "passage": "b", "label": "1"}', "label 0 to 1, found '1'"),
    ],
)
def test_a_bad_line_is_named(model: Path, tmp_path: Path, line: str, found: str) -> None:
    write(tmp_path, "boolq", moods(4, 0), moods(4, 0))
    with (tmp_path / "boolq.valid.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UsageError, match=rf"boolq.valid.jsonl:5: expected .*{found}"):
        fine_tune(model, tmp_path, "boolq", tmp_path, device="cpu")


def test_files_that_cannot_be_used_are_named(model: Path, tmp_path: Path) -> None:
    def attempt() -> None:
        fine_tune(model, tmp_path, "boolq", tmp_path, device="cpu")

    write(tmp_path, "boolq", moods(4, 0)[::2], [])
    with pytest.raises(UsageError, match=r"boolq.valid.jsonl is empty"):
        attempt()
    write(tmp_path, "boolq", moods(4, 0)[::2], moods(2, 0))
    with pytest.raises(UsageError, match=r"boolq.train.jsonl has no line with label 1"):
        attempt()
    (tmp_path / "boolq.valid.jsonl").unlink()
    with pytest.raises(UsageError, match=r"cannot read .*boolq.valid.jsonl: No such file"):
        attempt()


def test_a_model_that_cannot_be_fine_tuned_is_refused(
    run: Callable[..., GlueOutcome], model: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(model, tmp_path / "broken")
    weights, config = broken / "model.safetensors", broken / "config.json"
    tensors, kept = load_file(weights), config.read_text()

    def attempt(**changed: torch.Tensor) -> None:
        save_file(tensors | changed, weights, metadata={"format": "pt"})
        run(moods(4, 0), moods(4, 0), epochs=1, folder=broken)

    nan = torch.full_like(tensors["model.norm.weight"], float("nan"))
    with pytest.raises(ModelError, match="fine-tuned on boolq, gives scores that are not finite"):
        attempt(**{"model.norm.weight": nan})
    tensors.pop("model.norm.weight")
    with pytest.raises(ModelError, match=r"\(missing: model\.norm\.weight\)"):
        attempt()
    config.write_text(kept.replace('"llama"', '"vits"'))
    with pytest.raises(ModelError, match="transformers cannot load"):
        attempt()
