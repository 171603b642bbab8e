"""The lean decoders against transformers: logits and greedy text; and what may move a bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import CONTEXT, LLAMA3, MODELS, SHAPE, SLOTS, Save, Saved, lean_logits, load_lean
from transformers import AutoModelForCausalLM, LlamaConfig

from cdgen.kernels.recording import Recorded
from cdgen.models.decoder import Decoder, Dropout, forward_together

pytestmark = pytest.mark.usefixtures("one_thread")

# Logits here have a standard deviation near 1 and reach 5: fp32 sums in another order differ by
# some 1e-6, a wrong angle, norm or bias by 0.1 and more.
ATOL = 2e-5


def load_oracle(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.inference_mode()
def lean_greedy(decoder: Decoder, first: torch.Tensor, count: int) -> torch.Tensor:  # [B, count]
    ids, tokens = torch.arange(len(first)), [first]
    for position in range(count - 1):
        hidden = decoder.forward(tokens[-1], torch.full_like(ids, position), ids)
        tokens.append(decoder.logits(hidden).argmax(-1))
    return torch.stack(tokens, dim=1)


@torch.inference_mode()
def oracle_greedy(model: Any, first: torch.Tensor, count: int) -> torch.Tensor:  # [B, count]
    tokens = first[:, None]
    for _ in range(count - 1):
        tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], dim=1)
    return tokens


# ---- against transformers ----------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str, saved: Saved) -> None:
    folder = saved(name)
    tokens = torch.randint(96, (SLOTS, CONTEXT), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = load_oracle(folder)(tokens).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(
        lean_logits(load_lean(folder), tokens), expected, atol=ATOL, rtol=0.0
    )


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_those_of_transformers(name: str, saved: Saved) -> None:
    folder = saved(name)
    first = torch.arange(SLOTS)
    expected = oracle_greedy(load_oracle(folder), first, CONTEXT)
    assert lean_greedy(load_lean(folder), first, CONTEXT).tolist() == expected.tolist()


@pytest.mark.parametrize("which", ["good", "bad"])
def test_real_model_is_that_of_transformers(which: str, stories260k: Any) -> None:
    folder = getattr(stories260k, which)
    first = torch.tensor([1, *range(400, 400 + SLOTS - 1)])
    model = load_oracle(folder)
    expected = oracle_greedy(model, first, 60)
    assert lean_greedy(load_lean(folder, capacity=60), first, 60).tolist() == expected.tolist()
    with torch.inference_mode():
        torch.testing.assert_close(
            lean_logits(load_lean(folder, capacity=60), expected),
            model(expected).logits,
            atol=5e-5,  # these logits reach 20
            rtol=0.0,
        )


@pytest.mark.parametrize(
    ("name", "older"),
    [
        ("llama-theta", {"rope_theta": 99}),
        ("llama-theta", {"rope_theta": 99, "rope_scaling": None}),
        ("llama-linear", {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 3.0}}),
        (
            "llama-llama3",
            {
                "rope_theta": 5000.0,
                "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"},
            },
        ),
        ("neox", {"rotary_emb_base": 500.0, "rotary_pct": 0.25}),
        ("neox-whole-heads", {"rotary_emb_base": 500.0, "rotary_pct": 1.0, "rope_scaling": None}),
    ],
    ids=["theta alone", "no scaling", "linear", "llama3", "neox", "neox, whole heads"],
)
def test_older_config_layout_means_the_same(
    name: str, older: dict[str, Any], saved: Saved, tmp_path: Path
) -> None:
    """Before transformers 5, config.json had rope_theta and rope_scaling side by side, and GPT-NeoX
    had names of its own."""
    folder = Path(shutil.copytree(saved(name), tmp_path / "model"))
    tokens = torch.randint(96, (SLOTS, CONTEXT), generator=torch.Generator().manual_seed(2))
    newer = lean_logits(load_lean(folder), tokens)
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    (folder / "config.json").write_text(json.dumps(config | older))
    assert torch.equal(lean_logits(load_lean(folder), tokens), newer)
    with torch.inference_mode():
        torch.testing.assert_close(load_oracle(folder)(tokens).logits, newer, atol=ATOL, rtol=0.0)


# ---- what it covers ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "layers"), [("llama", 1), ("llama", 2), ("gpt2", 2), ("neox", 2)])
def test_an_early_exit_is_the_model_with_fewer_layers(
    name: str, layers: int, saved: Saved, tmp_path: Path
) -> None:
    """Bit for bit, and GOOD's own hidden states do not change."""
    model = load_oracle(saved(name))
    whole = load_lean(saved(name))
    blocks = model.base_model.h if name == "gpt2" else model.base_model.layers
    del blocks[layers:]
    model.config.num_hidden_layers = layers
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    short = load_lean(tmp_path)
    early = load_lean(saved(name), exit_layers=layers)
    ids, generator = torch.arange(SLOTS), torch.Generator().manual_seed(4)
    for step in range(6):
        tokens = torch.randint(96, (SLOTS,), generator=generator)
        at = torch.full_like(ids, step)
        good, bad = early.forward(tokens, at, ids).chunk(2)
        assert torch.equal(bad, short.forward(tokens, at, ids))
        assert torch.equal(good, whole.forward(tokens, at, ids))


@pytest.mark.parametrize(
    ("threads", "other", "at_once"),
    [
        (1, "llama-eps", 0),
        (2, "llama-eps", 6),
        (3, "llama-eps", 0),
        (2, "llama-mha", 6),
        (2, "gpt2", 0),
    ],
)
def test_two_models_together_compute_what_each_does_alone(
    threads: int,
    other: str,
    at_once: int,
    saved: Saved,
    set_threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once only with two threads, and only if the models are about as large."""
    beside, calls = Recorded.beside, []

    def counted(*args: Any) -> Any:
        calls.append(args)
        return beside(*args)

    monkeypatch.setattr(Recorded, "beside", counted)
    names = "llama", other
    alone, together = ([load_lean(saved(name)) for name in names] for _ in range(2))
    ids, generator = torch.arange(SLOTS), torch.Generator().manual_seed(4)
    set_threads(threads)
    for step in range(6):
        tokens = torch.randint(96, (SLOTS,), generator=generator)
        at = torch.full_like(ids, step)
        found = forward_together(*together, tokens, at, ids)
        expected = [decoder.forward(tokens, at, ids) for decoder in alone]
        assert all(map(torch.equal, found, expected))
    assert len(calls) == at_once


@pytest.mark.parametrize("layers", [0, 3, -1])
def test_an_early_exit_leaves_out_at_least_one_layer(layers: int, saved: Saved) -> None:
    with pytest.raises(ValueError, match=f"exit_layers: expected 1 to 2, got {layers}"):
        load_lean(saved("llama"), exit_layers=layers)


# ---- a row depends on its own tokens alone -----------------------------------------------------


@torch.inference_mode()
def row_bits(
    decoder: Decoder, own: list[int], slot: int, first_step: int, neighbours: int
) -> tuple[torch.Tensor, torch.Tensor]:  # hidden [T, D], logits [T, V] of the row in `slot`
    """Feed `own` to `slot` from step `first_step` on, with the other slots at random positions."""
    generator = torch.Generator().manual_seed(neighbours)
    hidden, logits = [], []
    for step in range(first_step + len(own)):
        tokens = torch.randint(96, (decoder.slots,), generator=generator)
        positions = torch.randint(CONTEXT, (decoder.slots,), generator=generator)
        ids = torch.arange(decoder.slots) + 1000 * neighbours
        ids[slot] = 7
        if step >= first_step:
            tokens[slot], positions[slot] = own[step - first_step], step - first_step
        out = decoder.forward(tokens, positions, ids)[-decoder.slots :]  # BAD's rows, if there are
        if step >= first_step:
            hidden.append(out[slot].clone())
            logits.append(decoder.logits(out)[slot].clone())
    return torch.stack(hidden), torch.stack(logits)


@pytest.mark.parametrize(
    ("name", "slots", "dropout"),
    [
        ("llama-wide-heads", 16, 0.5),
        ("llama-wide-heads", 48, 0.0),
        ("llama-wide-heads", 64, 0.0),
        ("gpt2", 48, 0.0),
        ("neox", 48, 0.0),
    ],
)
def test_no_bit_of_a_row_depends_on_the_others(
    name: str, slots: int, dropout: float, saved: Saved
) -> None:
    decoder = load_lean(saved(name), slots, dropout=Dropout(dropout, 3) if dropout else None)
    own = torch.randint(96, (12,), generator=torch.Generator().manual_seed(5)).tolist()
    hidden, logits = row_bits(decoder, own, slot=0, first_step=0, neighbours=0)
    for slot, first_step, neighbours in [(0, 0, 1), (1, 0, 2), (7, 1, 3), (slots - 1, 5, 4)]:
        again = row_bits(decoder, own, slot, first_step, neighbours)
        assert torch.equal(again[0], hidden), (slot, first_step)
        assert torch.equal(again[1], logits), (slot, first_step)


def test_a_second_thread_moves_no_bit(
    save_random: Save, set_threads: Callable[[int], None], tmp_path: Path
) -> None:
    """The model is wide enough that every op of a step is shared by both threads."""
    broad = SHAPE | {"hidden_size": 512, "intermediate_size": 1024, "head_dim": 64}
    folder = save_random(LlamaConfig(**broad), tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}")
    tokens = torch.randint(96, (64, 6), generator=torch.Generator().manual_seed(8))
    decoder = load_lean(folder, slots=64)
    alone = lean_logits(decoder, tokens)
    set_threads(2)
    assert torch.equal(lean_logits(decoder, tokens), alone)
    assert torch.equal(lean_logits(load_lean(folder, slots=64), tokens), alone)


def test_a_nan_row_touches_no_other_row(saved: Saved) -> None:
    folder = saved("llama")
    tokens = torch.randint(2, 96, (SLOTS, 10), generator=torch.Generator().manual_seed(6))
    clean = lean_logits(load_lean(folder), tokens)
    poisoned = load_lean(folder)
    poisoned.embedding = poisoned.embedding.clone()
    poisoned.embedding[1] = float("nan")
    tokens[3, 4] = 1
    logits = lean_logits(poisoned, tokens)
    assert logits[3, 4:].isnan().all()
    others = [row for row in range(SLOTS) if row != 3]
    assert torch.equal(logits[others], clean[others])
    # The same slots again: what the row left in its cache is never read.
    tokens[3] = 5
    logits = lean_logits(poisoned, tokens)
    assert not logits.isnan().any()
