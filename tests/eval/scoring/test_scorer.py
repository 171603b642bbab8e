"""Log-probabilities along a trie equal those of each sequence scored alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cdgen.errors import ModelError
from cdgen.eval.scoring.scorer import Scorer
from cdgen.eval.scoring.spans import Spans, spans_of

pytestmark = pytest.mark.usefixtures("one_thread")

# fp32 sums of about 30 log-probabilities of order 5.
SAME = 1e-4


def random_spans(count: int, longest: int = 30, seed: int = 0) -> Spans:
    """Draw sequences that branch off one another; some are equal, some are scored from the middle
    on."""
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(4096, size=longest).astype(np.int32)]
    while len(sequences) < count:
        trunk = sequences[rng.integers(len(sequences))]
        cut = rng.integers(1, len(trunk) + 1)
        tail = rng.integers(4096, size=rng.integers(0, longest - cut + 1))
        sequences.append(np.append(trunk[:cut], tail).astype(np.int32))
    first = np.array([rng.integers(1, len(s) + 1) for s in sequences])
    return spans_of(sequences, first)


def one_by_one(folder: Path, spans: Spans) -> np.ndarray:
    """Sum log-probabilities in float64, one sequence at a time, through the model's own forward."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    sums = []
    with torch.inference_mode():
        for index in range(len(spans)):
            ids = torch.from_numpy(spans.sequence(index).astype(np.int64))
            log_probs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
            at = torch.arange(int(spans.first[index]), len(ids))
            sums.append(float(log_probs[at - 1, ids[at]].sum()))
    return np.array(sums)


@pytest.mark.parametrize(
    ("kind", "along_a_trie"),
    [
        ("llama", True),
        ("qwen3", True),
        ("gpt2", True),
        ("gpt_neox", True),
        ("mistral", True),
        # A cap after the head, biases by distance and recurrence do not work along a trie.
        ("gemma2", False),
        ("bloom", False),
        ("mamba", False),
    ],
)
def test_architectures(architecture: Callable[[str], Path], kind: str, along_a_trie: bool) -> None:
    folder, spans = architecture(kind), random_spans(40)
    scorer = Scorer(folder, "cpu", batch_tokens=50)
    assert scorer.tree == along_a_trie
    np.testing.assert_allclose(scorer.span_sums(spans), one_by_one(folder, spans), atol=SAME)


def test_a_sliding_window_shorter_than_a_sequence_goes_row_by_row(
    architecture: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer(architecture("mistral"), "cpu")  # a window of 20 tokens
    monkeypatch.setattr(scorer, "_row_sums", lambda *_: np.zeros(1))
    assert scorer.span_sums(random_spans(1, longest=21)) == 0
    assert scorer.span_sums(random_spans(1, longest=20)) != 0


@pytest.mark.parametrize("tokens", [1, 7, 64, 4096])
def test_results_do_not_depend_on_the_batch(llama: Path, tokens: int) -> None:
    spans = random_spans(60)
    expected = Scorer(llama, "cpu").span_sums(spans)
    found = Scorer(llama, "cpu", batch_tokens=tokens).span_sums(spans)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_rows_do_not_depend_on_the_batch_either(architecture: Callable[[str], Path]) -> None:
    spans, folder = random_spans(60), architecture("bloom")
    expected = Scorer(folder, "cpu").span_sums(spans)
    found = Scorer(folder, "cpu", batch_tokens=40).span_sums(spans)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_head_in_pieces(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head computes the logits of a few rows at a time, as large vocabularies need."""
    spans = random_spans(30)
    expected = Scorer(llama, "cpu").span_sums(spans)
    monkeypatch.setattr("cdgen.eval.scoring.scorer._LOGITS_AT_ONCE", 3 * 4096)
    np.testing.assert_allclose(Scorer(llama, "cpu").span_sums(spans), expected, atol=SAME)


def test_equal_sequences_tie_exactly(llama: Path) -> None:
    sequence = np.arange(5, 25, dtype=np.int32)
    spans = spans_of([sequence, sequence[:15], sequence], np.array([1, 1, 1]))
    sums = Scorer(llama, "cpu", batch_tokens=4).span_sums(spans)
    assert sums[0] == sums[2] != sums[1]


def test_progress_reaches_the_end(llama: Path) -> None:
    seen: list[tuple[int, int]] = []
    Scorer(llama, "cpu", batch_tokens=32).span_sums(random_spans(40), lambda *at: seen.append(at))
    done = [d for d, _ in seen]
    assert done == sorted(done) and len(seen) > 3
    assert seen[-1][0] >= 0.95 * seen[-1][1]


@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_nan_is_an_error(
    architecture: Callable[[str], Path], copy_of: Callable[..., Path], kind: str
) -> None:
    folder = copy_of(architecture(kind))
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "mlp" in name)
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match="NaN"):
        Scorer(folder, "cpu").span_sums(random_spans(5))


def test_weights_in_bf16_are_computed_in_fp32(llama: Path, copy_of: Callable[..., Path]) -> None:
    folder = copy_of(llama)
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    spans = random_spans(20)
    found = Scorer(folder, "cpu").span_sums(spans)
    np.testing.assert_allclose(found, one_by_one(folder, spans), atol=SAME)


def test_a_checkpoint_without_all_its_weights_is_refused(
    llama: Path, copy_of: Callable[..., Path]
) -> None:
    folder = copy_of(llama)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError):
        Scorer(folder, "cpu")


@pytest.mark.gpu
def test_on_a_gpu(llama: Path) -> None:
    spans = random_spans(60)
    expected = Scorer(llama, "cpu").span_sums(spans)
    found = Scorer(llama, "cuda", batch_tokens=32).span_sums(spans)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
