"""`cdgen generate --bad window:N`: BAD is GOOD that sees the last N tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdgen.engine.slot_engine import SlotEngine

pytestmark = pytest.mark.usefixtures("one_thread")

Command = Callable[..., Any]


def write(cdgen: Command, good: Path, window: int, prompts: Path, out: Path, *more: object) -> Any:
    flags = ("--prompt-tokens", 6, "--max-new-tokens", 40, "--num-sequences", 8, "--seed", 5)
    models = ("--good", good, "--bad", f"window:{window}", "--prompts", prompts, "--out", out)
    return cdgen("generate", *models, *flags, *more)


def data_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "data").iterdir()}


# ---- what is written ---------------------------------------------------------------------------


def test_the_plan_the_card_and_the_status_name_the_window(
    cdgen: Command, stories260k: Any, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "3"
    for window in (3, 8):
        assert write(cdgen, stories260k.good, window, prompts, tmp_path / str(window)).code == 0
    assert data_of(out) != data_of(tmp_path / "8")
    assert json.loads((out / "manifest.json").read_bytes())["plan"]["bad"] == "window:3"
    assert "| BAD | `window:3` |" in (out / "README.md").read_text()
    assert "  BAD window:3\n" in cdgen("status", out).out
    ended = write(cdgen, stories260k.good, 8, prompts, out)
    assert ended.code == 3
    assert "window:3" in ended.err and "window:8" in ended.err


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_other_families(
    cdgen: Command, tiny_others: Any, prompts: Path, tmp_path: Path, name: str
) -> None:
    for window in (1, 20):
        ended = write(cdgen, tiny_others[name], window, prompts, tmp_path / str(window))
        assert ended.code == 0, ended.err
    assert data_of(tmp_path / "1") != data_of(tmp_path / "20")


# ---- what changes no byte ----------------------------------------------------------------------


@pytest.mark.thorough
def test_threads_shards_and_workers_change_no_byte(
    cdgen: Command,
    stories260k: Any,
    prompts: Path,
    tmp_path: Path,
    set_threads: Callable[[int], None],
) -> None:
    good, sizes = stories260k.good, ("--slots", 16, "--range-size", 16)
    whole = tmp_path / "whole"
    assert write(cdgen, good, 4, prompts, whole, *sizes).code == 0
    set_threads(2)
    for shard in ("1/2", "0/2"):
        ended = write(cdgen, good, 4, prompts, tmp_path / "shards", *sizes, "--shard", shard)
        assert ended.code == 0, ended.err
    assert cdgen("finalize", tmp_path / "shards").code == 0
    assert data_of(tmp_path / "shards") == data_of(whole)
    ended = write(cdgen, good, 4, prompts, tmp_path / "workers", *sizes, "--workers", 2)
    assert ended.code == 0, ended.err
    assert data_of(tmp_path / "workers") == data_of(whole)


def test_an_interrupted_corpus_is_resumed_to_the_same_bytes(
    cdgen: Command,
    stories260k: Any,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good, sizes = stories260k.good, ("--slots", 16, "--range-size", 16)
    assert write(cdgen, good, 5, prompts, tmp_path / "whole", *sizes).code == 0
    through, calls = SlotEngine.generate, []

    def interrupted(self: SlotEngine, requests: Any) -> Any:
        calls.append(0)
        for number, sequence in enumerate(through(self, requests)):
            if len(calls) == 2 and number == 7:
                raise KeyboardInterrupt
            yield sequence

    out = tmp_path / "resumed"
    with monkeypatch.context() as patched:
        patched.setattr(SlotEngine, "generate", interrupted)
        assert write(cdgen, good, 5, prompts, out, *sizes).code != 0
    assert not (out / "data").exists()
    assert write(cdgen, good, 5, prompts, out, *sizes).code == 0
    assert data_of(out) == data_of(tmp_path / "whole")


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [45, 46, 1000])
def test_a_window_that_holds_every_context_is_refused(
    cdgen: Command, stories260k: Any, prompts: Path, tmp_path: Path, window: int
) -> None:
    """A sequence of 6 + 40 tokens draws its last one after 45."""
    ended = write(cdgen, stories260k.good, window, prompts, tmp_path / "out")
    assert ended.code == 2
    assert f"--bad window:{window}: BAD would be GOOD" in ended.err
    assert "is drawn after 45 others: give a smaller N" in ended.err
    assert not (tmp_path / "out").exists()
    assert write(cdgen, stories260k.good, 44, prompts, tmp_path / "out", "--dry-run").code == 0


def test_models_without_a_lean_decoder_are_refused_by_name(
    cdgen: Command, tiny_gpt2_pair: Any, tiny_pair: Any, prompts: Path, tmp_path: Path
) -> None:
    ended = write(cdgen, tiny_gpt2_pair.good, 4, prompts, tmp_path / "out")
    assert ended.code == 2
    assert "--bad window:4 needs a GOOD that the lean decoders cover, which this gpt2" in ended.err
    # A sliding window of GOOD's own is covered if it holds the whole sequence.
    folder = Path(shutil.copytree(tiny_pair.good, tmp_path / "mistral"))
    config = json.loads((folder / "config.json").read_text())
    for own, code in ((46, 0), (45, 2)):
        changed = config | {"model_type": "mistral", "sliding_window": own}
        (folder / "config.json").write_text(json.dumps(changed))
        ended = write(cdgen, folder, 4, prompts, tmp_path / "out", "--dry-run")
        assert ended.code == code, ended.err
    assert "which this mistral is not" in ended.err
