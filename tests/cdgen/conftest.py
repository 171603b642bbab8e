"""Tiny random pairs, prompts, and the commands and machines that several tests share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from chromium import running_chromium
from tiny_pair import WORDS, PairFolders, save_tiny_pair, save_tokenizer

# The ops that choose a backend.
OPS = (
    "decode_attention",
    "gelu",
    "layer_norm",
    "rms_norm",
    "rotary_to_cache",
    "sample_contrastive",
    "swiglu",
)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Start Chromium; skip where it or Playwright is not installed."""
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> PairFolders:
    return save_tiny_pair(tmp_path_factory.mktemp("tiny-pair"))


@pytest.fixture(scope="session")
def tiny_twin(
    tiny_pair: PairFolders,
    tmp_path_factory: pytest.TempPathFactory,
    save_random: Callable[..., Path],
) -> Path:
    """Save a BAD of the same shape as the GOOD of `tiny_pair`, so that both can run stacked."""
    from transformers import LlamaConfig

    folder = tmp_path_factory.mktemp("tiny-twin") / "bad"
    config = LlamaConfig.from_pretrained(tiny_pair.good)
    save_random(config, folder, seed=7, head_scale=2.0)
    save_tokenizer(folder, WORDS)
    return folder


@pytest.fixture(scope="session")
def tiny_gpt2_pair(
    tmp_path_factory: pytest.TempPathFactory, save_random: Callable[..., Path]
) -> PairFolders:
    """Save two GPT-2 models that the lean decoders do not support."""
    from transformers import GPT2Config

    folder = tmp_path_factory.mktemp("tiny-gpt2-pair")
    for name, layers in (("good", 2), ("bad", 1)):
        config = GPT2Config(
            vocab_size=len(WORDS),
            n_embd=32,
            n_layer=layers,
            n_head=4,
            n_positions=64,
            bos_token_id=0,
            eos_token_id=1,
            tie_word_embeddings=False,
            scale_attn_by_inverse_layer_idx=True,
        )
        save_random(config, folder / name, seed=layers, head_scale=2.0)
        save_tokenizer(folder / name, WORDS)
    return PairFolders(folder / "good", folder / "bad")


@pytest.fixture(scope="session")
def tiny_others(
    tmp_path_factory: pytest.TempPathFactory, save_random: Callable[..., Path]
) -> dict[str, Path]:
    """Save a GPT-2 and a GPT-NeoX with the tokens of `tiny_pair`, and with logits as peaked."""
    from transformers import GPT2Config, GPTNeoXConfig

    common = {"vocab_size": len(WORDS), "bos_token_id": 0, "eos_token_id": 1}
    configs = {
        "gpt2": GPT2Config(
            n_embd=32, n_layer=1, n_head=4, n_positions=64, tie_word_embeddings=False, **common
        ),
        "gpt_neox": GPTNeoXConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            **common,
        ),
    }
    folder = tmp_path_factory.mktemp("tiny-others")
    for name, config in configs.items():
        save_random(config, folder / name, seed=5, head_scale=2.0)
        save_tokenizer(folder / name, WORDS)
    return {name: folder / name for name in configs}


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the interpreted Triton kernels, and the linear layers of a GPU, on CPU tensors."""
    from cdgen.models.linear import DenseLinear, StackedLinear

    if torch.cuda.is_available():
        pytest.skip("on a GPU, Triton compiles its kernels, for CUDA tensors only")

    def of_a_gpu(weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
        return (StackedLinear if weight.dim() == 3 else DenseLinear)(weight, bias)

    for op in OPS:
        monkeypatch.setattr(f"cdgen.kernels.{op}.choose_backend", lambda *_: "triton")
    for module in ("linear", "weights", "gpt2", "gpt_neox"):
        monkeypatch.setattr(f"cdgen.models.{module}.linear", of_a_gpu)
    monkeypatch.setattr("cdgen.models.decoder.Recorded", lambda compute: compute)  # native calls
    # The interpreter runs programs one after the other; of 512, most would find nothing to do.
    monkeypatch.setattr("cdgen.kernels.gpu.sample_contrastive.HEAD_PROGRAMS", 1)


@pytest.fixture(autouse=True)
def reference_if_nothing_is_built(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let GPU tests, which compare with the CPU, use the reference if no native kernel is built."""
    from cdgen.kernels import dispatch

    if not request.node.get_closest_marker("gpu") or not isinstance(
        dispatch.native, dispatch.NotBuilt
    ):
        return
    choose = dispatch.choose_backend
    for op in OPS:
        monkeypatch.setattr(
            f"cdgen.kernels.{op}.choose_backend",
            lambda device, name=None: choose(device, name or _on(device)),
        )


def _on(device: torch.device) -> str:
    return "reference" if device.type == "cpu" else "triton"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Write five documents of one to five words."""
    path = tmp_path / "prompts.txt"
    lines = [" ".join(f"w{3 + (7 * n + i) % 40}" for i in range(n)) for n in range(1, 6)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def generate_200(
    cdgen: Callable[..., Any], tiny_pair: PairFolders, prompts: Path
) -> Callable[..., Any]:
    """Run `cdgen generate` for 5 x 40 sequences of at most 20 new tokens."""

    def run(out: Path, *more: object) -> Any:
        pair = ("--good", tiny_pair.good, "--bad", tiny_pair.bad)
        sizes = ("--max-new-tokens", 20, "--num-sequences", 40, "--prompt-tokens", 4)
        return cdgen("generate", *pair, "--prompts", prompts, "--out", out, *sizes, *more)

    return run


@pytest.fixture
def small_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let decoders with more than 32 slots run out of memory."""
    from cdgen.models.decoder import Decoder

    make = Decoder.__init__

    def construct(
        self: Decoder, shape: Any, models: Any, slots: int, *more: Any, **kw: Any
    ) -> None:
        if slots > 32:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        make(self, shape, models, slots, *more, **kw)

    monkeypatch.setattr(Decoder, "__init__", construct)


@pytest.fixture(scope="session")
def published() -> Callable[[Path], dict[str, bytes]]:
    """Return every published file of a finalized corpus by its name."""

    def read(out: Path) -> dict[str, bytes]:
        paths = [out / "manifest.json", out / "README.md", *sorted((out / "data").iterdir())]
        assert json.loads(paths[0].read_bytes())["files"]
        return {str(path.relative_to(out)): path.read_bytes() for path in paths}

    return read
