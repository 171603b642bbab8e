"""A tiny random pair, the real one where it is at hand, and the command line in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from cdgen import cli

WORDS = ["<s>", "</s>", *(f"w{number}" for number in range(2, 48))]


@dataclass(frozen=True)
class PairFolders:
    """GOOD and BAD as checkpoint folders that share a tokenizer."""

    good: Path
    bad: Path


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """How many threads torch and the kernels use, until the test ends."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def one_thread(set_threads: Callable[[int], None]) -> None:
    """Models this small only lose by a second thread, most of all while the machine is busy."""
    set_threads(1)


@pytest.fixture(scope="session")
def stories260k(data_folder: Path) -> PairFolders:
    """The real pair of the development data."""
    folder = data_folder / "models/stories260k"
    return PairFolders(folder / "good", folder / "bad")


@pytest.fixture(scope="session")
def save_random() -> Callable[..., Path]:
    """Saves a transformers model with every parameter drawn at random, biases and norms included.

    Their initial zeros and ones would hide a bias or a norm that is never applied.
    """

    def save(config: Any, folder: Path, seed: int = 0, head_scale: float = 1.0) -> Path:
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_config(config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.dim() == 1:
                    parameter.copy_(0.2 * noise + (0.0 if name.endswith("bias") else 1.0))
                else:
                    parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            model.get_output_embeddings().weight.mul_(head_scale)
        model.save_pretrained(folder)
        return folder

    return save


def save_tokenizer(folder: Path, words: list[str]) -> None:
    """Word by word: id n is the n-th word."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="session")
def tiny_pair(
    tmp_path_factory: pytest.TempPathFactory, save_random: Callable[..., Path]
) -> PairFolders:
    """Two Llamas of 48 words and context 64. Their heads are scaled until about 8 tokens are
    plausible, as in trained models; EOS is drawn now and then."""
    from transformers import LlamaConfig

    folder = tmp_path_factory.mktemp("tiny-pair")
    for name, layers in (("good", 2), ("bad", 1)):
        config = LlamaConfig(
            vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        save_random(config, folder / name, seed=layers, head_scale=2.0)
        save_tokenizer(folder / name, WORDS)
    return PairFolders(folder / "good", folder / "bad")


@pytest.fixture(scope="session")
def tiny_gpt2_pair(
    tmp_path_factory: pytest.TempPathFactory, save_random: Callable[..., Path]
) -> PairFolders:
    """Two models that no lean decoder covers."""
    from transformers import GPT2Config

    folder = tmp_path_factory.mktemp("tiny-gpt2-pair")
    for name, layers in (("good", 2), ("bad", 1)):
        config = GPT2Config(
            vocab_size=len(WORDS), n_embd=32, n_layer=layers, n_head=4, n_positions=64,
            bos_token_id=0, eos_token_id=1, tie_word_embeddings=False,
        )  # fmt: skip
        save_random(config, folder / name, seed=layers, head_scale=2.0)
        save_tokenizer(folder / name, WORDS)
    return PairFolders(folder / "good", folder / "bad")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Five documents of one to five words."""
    path = tmp_path / "prompts.txt"
    lines = [" ".join(f"w{3 + (7 * n + i) % 40}" for i in range(n)) for n in range(1, 6)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def cdgen(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Finished]:
    """The `cdgen` command with these arguments, through its real entry point."""

    def run(*arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["cdgen", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Finished(ended.value.code, out, err)

    return run


@pytest.fixture(scope="session")
def published() -> Callable[[Path], dict[str, bytes]]:
    """Every file of a finalized corpus that is published, by name."""

    def read(out: Path) -> dict[str, bytes]:
        paths = [out / "manifest.json", out / "README.md", *sorted((out / "data").iterdir())]
        assert json.loads(paths[0].read_bytes())["files"]
        return {str(path.relative_to(out)): path.read_bytes() for path in paths}

    return read
