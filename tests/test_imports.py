"""A machine with a GPU needs only torch, triton, transformers, tokenizers, safetensors and numpy.

The tests start this very file as a program. It hides some packages from itself, then does its job:
it imports modules, or writes corpora.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# `yaml` is not optional: huggingface_hub imports it, and transformers needs that.
OPTIONAL = ("pyarrow", "datasets", "typer", "rich")
VALIDATION = "pydantic"  # checks the settings of a run


class Without:
    """A finder of modules and distributions that hides the packages `names`."""

    def __init__(self, finder: Any, names: tuple[str, ...]) -> None:
        self.finder, self.names = finder, names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.split(".")[0] in self.names else self.finder.find_spec(name, path)

    def find_distributions(self, context: Any = None) -> Iterator[Any]:
        context = context or importlib.metadata.DistributionFinder.Context()
        find = getattr(self.finder, "find_distributions", None)
        if find and context.name not in self.names:
            yield from find(context)


def hide_packages(names: tuple[str, ...]) -> None:
    """Make the packages `names`, of which none is imported yet, look as if not installed."""
    assert not sys.modules.keys() & set(names)
    sys.meta_path[:] = [Without(finder, names) for finder in sys.meta_path]


def import_modules(modules: list[str]) -> None:
    """Import every module, and print as JSON those that need a hidden package."""
    wanting = []
    for module in modules:
        try:
            if module.endswith(".py"):
                load_test(Path(module))
            else:
                importlib.import_module(module)
        except ModuleNotFoundError as error:
            wanting.append(f"{module}: {error}")
    print(json.dumps(wanting))


def load_test(path: Path) -> None:
    """Import a test file as pytest does with `--import-mode=importlib`."""
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)


def write_corpora(folder: Path) -> None:
    """Write JSON Lines corpora with one and with two processes; print what is refused."""
    from cdgen.corpus.reader import corpus_rows
    from cdgen.corpus.verify import verify
    from cdgen.errors import UsageError
    from cdgen.generation.config import GenerateConfig
    from cdgen.generation.run import generate

    def config(out: str, **changes: Any) -> GenerateConfig:
        fields = {
            "good": folder / "good",
            "bad": str(folder / "bad"),
            "out": folder / out,
            "prompts": str(folder / "prompts.txt"),
            "format": "jsonl",
            "prompt_tokens": 3,
            "num_sequences": 20,
            "max_new_tokens": 12,
            "range_size": 16,
            "device": "cpu",
            "workers": 1,
        }
        return GenerateConfig.model_validate(fields | changes)

    sys.stderr.isatty = lambda: True  # type: ignore[method-assign]  # a terminal, without `rich`
    assert generate(config("one")).sequences == 40
    assert generate(config("two", workers=2)).finalized
    assert verify(folder / "one") == []
    rows = corpus_rows(folder / "one", ["sequence_id", "new_tokens"])
    assert [row["sequence_id"] for row in rows] == list(range(40))
    refused = []
    (folder / "prompts.parquet").touch()
    for changes in (
        {"format": "parquet"},
        {"prompts": str(folder / "prompts.parquet")},
        {"prompts": "some/dataset"},
    ):
        try:
            generate(config("none", **changes))
        except UsageError as error:
            refused.append(str(error))
    print(json.dumps(refused))


if __name__ in ("__main__", "__mp_main__"):  # the program and the workers that it starts
    job, names, arguments = sys.argv[1], tuple(sys.argv[2].split(",")), sys.argv[3:]
    hide_packages(names)
if __name__ == "__main__":
    sys.path += [str(ROOT / "tests" / folder) for folder in ("kernels", "cdgen", "eval", "train")]
    if job == "import":
        import_modules(arguments)
    else:
        write_corpora(Path(arguments[0]))
    sys.exit()

import pytest  # noqa: E402


def modules(*patterns: str) -> list[str]:
    """Name the modules that match, as they are imported: cdgen.kernels.gpu.gelu."""
    found = []
    for pattern in patterns:
        paths = [path.relative_to(ROOT).with_suffix("") for path in sorted(ROOT.glob(pattern))]
        assert paths, f"no file is called {pattern}"
        found += [".".join(path.parts) for path in paths]
    return [name if name.startswith("cdgen.") else f"cdgen.{name}" for name in found]


def gpu_tests() -> list[str]:
    """Return the test files that `make test-gpu` names or marks `gpu`, and their conftest.py."""
    _, targets = (ROOT / "Makefile").read_text().split("\ntest-gpu:")
    named = re.findall(r"tests/[\w/]+(?:\.py)?", targets)
    files = {
        file
        for path in (ROOT / name for name in named)
        for file in ([path] if path.suffix else path.glob("test_*.py"))
    }
    marked = {p for p in ROOT.glob("tests/**/test_*.py") if "pytest.mark.gpu" in p.read_text()}
    files = {file for file in files | marked if file.exists()}
    shared = {file.parent / "conftest.py" for file in files} | {ROOT / "tests" / "conftest.py"}
    return [str(path) for path in sorted(files | {path for path in shared if path.exists()})]


BESIDE_A_GPU = [
    *modules("kernels/*.py", "kernels/gpu/**/*.py"),
    *modules("cdgen/checkpoints/[!_p]*.py", "cdgen/checkpoints/pair.py"),
    *modules("cdgen/models/[!_]*.py", "cdgen/engine/[!_]*.py", "cdgen/hf/[!_]*.py"),
    *modules("bench/ops/*.py", "bench/bounds/*.py", "bench/timing/*.py"),
    *modules("bench/end_to_end/*gpu*.py", "bench/end_to_end/bench_generate.py"),
    *modules("train/callbacks.py", "train/checkpoints.py", "train/model.py", "train/optimizer.py"),
    *modules("train/trainer.py", "train/validation.py", "train/view.py"),
    *modules("train/data/mixture.py", "train/data/packing.py", "train/data/token*.py"),
    *modules("train/data/words.py"),
    *modules("eval/checkpoints.py", "eval/scoring/*.py", "eval/tasks/[!_fg]*.py"),
    *modules("eval/report/results.py", "eval/report/display.py"),
]
A_RUN = [
    *modules("cdgen/corpus/[!_]*.py", "cdgen/generation/[!_]*.py", "cdgen/checkpoints/[!_]*.py"),
    *modules("cdgen/cli/demo.py", "train/**/[!_]*.py", "eval/**/*.py"),
    *modules("bench/end_to_end/bench_train.py", "bench/end_to_end/bench_eval.py"),
]


def run(job: str, absent: tuple[str, ...], *arguments: object) -> list[str]:
    """Run this file as a program with some packages hidden, and return the list that it prints."""
    program = [sys.executable, __file__, job, ",".join(absent), *map(str, arguments)]
    process = subprocess.run(program, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    printed = json.loads(process.stdout.splitlines()[-1])
    assert isinstance(printed, list)
    return printed


@pytest.mark.thorough
def test_generation_on_a_gpu_needs_only_its_six_packages() -> None:
    assert run("import", (*OPTIONAL, VALIDATION), *BESIDE_A_GPU, *gpu_tests()) == []


@pytest.mark.thorough
def test_a_run_needs_pydantic_as_well() -> None:
    assert run("import", OPTIONAL, *A_RUN) == []


def test_hidden_packages_cannot_be_imported() -> None:
    (wanting,) = run("import", OPTIONAL, "cdgen.cli.app")
    assert wanting == "cdgen.cli.app: No module named 'typer'"
    assert "No module named 'pydantic'" in run("import", (VALIDATION,), "cdgen.corpus.plan")[0]


@pytest.fixture
def pair_folder(tmp_path: Path, save_random: Callable[..., Path]) -> Path:
    """Write a random GOOD and BAD of 16 words, and two prompts."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig

    words = ["<s>", "</s>", *(f"w{number}" for number in range(2, 16))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    for seed, name in enumerate(("good", "bad")):
        config = LlamaConfig(
            vocab_size=16,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            bos_token_id=0,
            eos_token_id=1,
        )
        save_random(config, tmp_path / name, seed=seed, head_scale=2.0)
        tokenizer.save(str(tmp_path / name / "tokenizer.json"))
    (tmp_path / "prompts.txt").write_text("w3 w4\nw5\n")
    return tmp_path


@pytest.mark.thorough
def test_a_corpus_is_written_and_read_without_the_optional_packages(pair_folder: Path) -> None:
    refused = run("write", OPTIONAL, pair_folder)
    needed = ("pyarrow", "pyarrow", "datasets")
    assert [text.split(":")[0] for text in refused] == [f"{n} is not installed" for n in needed]
    assert refused[0].endswith(": pip install pyarrow, or give --format jsonl")
    assert not (pair_folder / "none").exists()
    names = ["manifest.json", "README.md", "data/train-00000-of-00001.jsonl"]
    one, two = ([(pair_folder / out / n).read_bytes() for n in names] for out in ("one", "two"))
    assert one == two
    assert set(json.loads(one[0])["plan"]["libraries"]) == {"torch", "transformers", "tokenizers"}
