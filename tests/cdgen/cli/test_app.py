"""Bad input is refused in a line or two, with the right exit code, and no file is touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cdgen import progress
from cdgen.generation.config import GenerateConfig

pytestmark = pytest.mark.usefixtures("one_thread")

Command = Callable[..., Any]
SMALL = ("--prompt-tokens", 4, "--max-new-tokens", 6, "--num-sequences", 2)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "new/out"


@pytest.fixture
def generate(cdgen: Command, tiny_pair: Any, prompts: Path, out: Path) -> Command:
    """Run a small `cdgen generate` that succeeds; keywords override its flags, None omits one."""

    def run(*more: object, **flags: object) -> Any:
        given = {"good": tiny_pair.good, "bad": tiny_pair.bad, "prompts": prompts, "out": out}
        pairs = [
            (f"--{name.replace('_', '-')}", value)
            for name, value in (given | flags).items()
            if value is not None
        ]
        return cdgen("generate", *SMALL, *(x for pair in pairs for x in pair), *more)

    return run


def content(folder: Path) -> dict[str, bytes | None]:
    """Return every path below `folder`: a file with its bytes, a folder with None."""
    paths = sorted(folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def refused(generate: Command, tmp_path: Path) -> Command:
    """Run a command that must fail with `code` and one or two lines with each of `says`.

    It must not touch any file. Return what it printed.
    """

    def run(code: int, *says: str, command: Command = generate, **flags: object) -> str:
        before = content(tmp_path)
        ended = command(**flags)
        assert ended.code == code, ended
        assert ended.err.startswith("cdgen: "), ended.err
        assert len(ended.err.splitlines()) <= 2, ended.err
        assert "unexpected" not in ended.err
        for text in says:
            assert text in ended.err
        assert ended.out == ""
        assert content(tmp_path) == before
        return str(ended.err)

    return run


# ---- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("alpha", ["-0.1", "1.01", "nan", "inf"]),
        ("temperature", ["-0.5", "nan", "inf"]),
        ("top_p", ["0", "-1", "1.5", "nan"]),
        ("top_k", ["-1", "2147483648"]),
        ("min_p", ["-0.1", "1.1", "nan"]),
        ("contrast", ["-1", "nan", "inf"]),
        ("prompt_tokens", ["0"]),
        ("num_sequences", ["0"]),
        ("max_new_tokens", ["0"]),
        ("seed", ["-1", "18446744073709551616"]),
        ("slots", ["0", "8", "17", "-16", "many", "1.5", "²"]),
        ("range_size", ["0", "-1", "all"]),
        ("strategy", ["contrastive", ""]),
        ("format", ["csv", ""]),
        ("on_eos", ["restart"]),
        ("bos", ["no", ""]),
        ("dtype", ["float16", "int8"]),
        ("kv_dtype", ["fp8", "float16", "int4"]),
        ("device", ["tpu"]),
        ("shard", ["1/1", "0", "-1/2", "a/b", "0/0"]),
        ("max_quarantined", ["-1"]),
        ("grace", ["-1"]),
        ("watchdog", ["-1"]),
        ("bad", ["dropout:0", "dropout:1", "dropout:x", ""]),
    ],
)
def test_a_value_outside_its_range_is_refused(
    refused: Command, flag: str, values: list[str]
) -> None:
    for value in values:
        refused(2, f"--{flag.replace('_', '-')}", **{flag: value})


@pytest.mark.parametrize("flag", ["good", "prompts", "out"])
def test_a_missing_flag_is_named(refused: Command, flag: str) -> None:
    refused(2, f"--{flag} is missing: give the flag or put it into --config", **{flag: None})


def test_every_mistake_is_named(refused: Command) -> None:
    missing = "is missing: give the flag or put it into --config"
    says = f"--good {missing}; --top-k: input should be greater"
    more = ("; --slots: input should be", f"; --prompts {missing}")
    refused(2, says, *more, good=None, prompts=None, slots="x", top_k=-1)


def test_contrast_needs_a_bad(refused: Command) -> None:
    says = "--strategy cd needs --bad: a checkpoint folder, layers:N, window:N or dropout:P"
    refused(2, says, bad=None)
    refused(2, says, bad="none")


def test_more_tokens_than_the_context_are_refused(refused: Command) -> None:
    refused(
        2,
        "--prompt-tokens 40 + --max-new-tokens 25 = 65 tokens",
        "the context of the pair is 64",
        prompt_tokens=40,
        max_new_tokens=25,
    )


def test_unknown_flags_and_commands_are_refused(cdgen: Command) -> None:
    for arguments, says in [
        (["generate", "--modle", "x"], "No such option: --modle"),
        (["generate", "--alpha", "high"], "'--alpha'"),
        (["generate", "--seed", "1.5"], "'--seed'"),
        (["genrate"], "No such command 'genrate'"),
    ]:
        ended = cdgen(*arguments)
        assert ended.code == 2
        assert says in ended.err
        assert "--help" in ended.err or "-h" in ended.err


# ---- prompts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", [b"", b"\n\n", b"  \n\t\n"], ids=["empty", "newlines", "spaces"])
def test_a_file_without_a_prompt_is_refused(refused: Command, prompts: Path, blank: bytes) -> None:
    prompts.write_bytes(blank)
    refused(2, f"--prompts {prompts}: no prompt in it")


def test_missing_prompts_are_refused(refused: Command, tmp_path: Path) -> None:
    refused(2, "nowhere.txt: no such file", prompts=tmp_path / "nowhere.txt")
    refused(2, "--prompts: got an empty name", prompts="")


def test_prompts_that_are_not_utf8_are_refused(refused: Command, prompts: Path) -> None:
    prompts.write_bytes(b"w3 w4\nw5 \xff w6\n")
    refused(2, "line 2: not UTF-8 at byte 9", "Convert the file to UTF-8")


def test_prompts_that_are_not_json_are_refused(refused: Command, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "w3"}\n{"title": "w4"}\n')
    refused(2, 'line 2: expected an object with "text"', prompts=path)


def test_a_line_of_ten_megabytes_is_read_like_a_short_one(
    generate: Command, prompts: Path, published: Command, out: Path
) -> None:
    prompts.write_text("w3 w4 w5 w6\n")
    short = generate()
    rows = published(out)
    shutil.rmtree(out)
    prompts.write_text("w3 w4 w5 w6" + f" {'long' * 64}" * 40_000 + "\n")
    assert prompts.stat().st_size > 10_000_000
    long = generate()
    assert (short.code, long.code) == (0, 0), long.err
    name = "data/train-00000-of-00001.parquet"
    assert published(out)[name] == rows[name]


# ---- models ------------------------------------------------------------------------------------


@pytest.fixture
def model(tiny_pair: Any, tmp_path: Path) -> Path:
    """Copy GOOD, to be damaged."""
    return Path(shutil.copytree(tiny_pair.good, tmp_path / "model"))


def test_a_missing_model_is_refused(refused: Command, tmp_path: Path) -> None:
    for flag in ("good", "bad"):
        refused(4, "gpt-7: no such folder", **{flag: tmp_path / "gpt-7"})


def test_tokenizers_that_differ_are_refused(refused: Command, model: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["w30"], vocab["w31"] = vocab["w31"], vocab["w30"]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(4, "GOOD and BAD do not share a tokenizer: 2 of", "30 'w30' 'w31'", bad=model)


def test_pickle_weights_are_refused(refused: Command, model: Path) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    refused(4, "only pickle weights (pytorch_model.bin)", "Convert them to safetensors", good=model)


def test_truncated_and_padded_weights_are_refused(refused: Command, model: Path) -> None:
    path = model / "model.safetensors"
    whole = path.read_bytes()
    for data, says in [
        (whole[:-1], "shorter than promised"),
        (whole[:100], "shorter than promised"),
        (b"", "shorter than promised"),
        (whole + b"\0", "longer than promised"),
    ]:
        path.write_bytes(data)
        refused(4, str(path), says, bad=model)


def test_an_index_that_names_a_file_outside_the_folder_is_refused(
    refused: Command, model: Path
) -> None:
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").rename(model.parent / "outside.safetensors")
    for name in ("../outside.safetensors", str(model.parent / "outside.safetensors")):
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, name)}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        refused(4, f"names {name!r}: a shard must be a plain file name", good=model)


@pytest.mark.parametrize("bad", [None, "dropout:0.5"], ids=["as GOOD", "as both"])
def test_weights_of_another_architecture_write_nothing(
    refused: Command, model: Path, bad: str | None
) -> None:
    tensors = load_file(model / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, model / "model.safetensors")
    refused(4, "model.norm.weight", good=model, **({"bad": bad} if bad else {}))


def test_more_slots_than_memory_write_nothing(refused: Command) -> None:
    refused(4, "GiB are free: give fewer --slots", slots=16 * 10**9)


@pytest.mark.parametrize("bad", ["dropout:0.5", "layers:1", "window:4"])
def test_a_bad_made_of_a_model_without_a_lean_decoder_is_refused(
    refused: Command, tiny_gpt2_pair: Any, bad: str
) -> None:
    says = f"--bad {bad} needs a GOOD that the lean decoders cover"
    refused(2, says, "gpt2", good=tiny_gpt2_pair.good, bad=bad)


def test_a_prompt_with_tokens_that_bad_lacks_writes_nothing(
    refused: Command, tiny_pair: Any, prompts: Path, tmp_path: Path
) -> None:
    """BAD has a smaller vocabulary, and a prompt has a word outside it."""
    bad = Path(shutil.copytree(tiny_pair.bad, tmp_path / "small"))
    tensors = load_file(bad / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:40].clone()
    save_file(tensors, bad / "model.safetensors")
    config = json.loads((bad / "config.json").read_text())
    (bad / "config.json").write_text(json.dumps(config | {"vocab_size": 40}))
    prompts.write_text("w3 w4\nw5 w44\n")
    refused(2, "prompt 1 holds token 44", "share 40 tokens", bad=bad)


# ---- OUT ---------------------------------------------------------------------------------------


def test_an_out_with_another_plan_is_refused(
    generate: Command, refused: Command, prompts: Path
) -> None:
    assert generate().code == 0
    refused(3, "seed: was 0, now 1", "choose another --out", seed=1)
    refused(3, "strategy: was cd, now vanilla", strategy="vanilla")
    refused(3, "max_new_tokens: was 6, now 7", max_new_tokens=7)
    prompts.write_text("w9 w9\n")
    refused(3, "source_sha256", "choose another --out")


def test_an_out_that_holds_something_else_is_refused(refused: Command, out: Path) -> None:
    out.mkdir(parents=True)
    (out / "thesis.tex").write_text("years of work")
    refused(3, "is not empty (it holds thesis.tex)", "choose an empty or a new folder")


def test_an_out_that_is_a_file_is_refused(refused: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(5, "is a file: choose a folder", out=tmp_path / "file")


def test_an_out_that_cannot_be_written_is_refused(refused: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(5, "cannot create the folder", out=tmp_path / "file/out")
    refused(5, "cannot create the folder", out="/proc/no-such-folder/out")


@pytest.mark.parametrize("command", ["status", "verify", "finalize"])
def test_a_folder_without_a_corpus_is_refused(
    cdgen: Command, refused: Command, tmp_path: Path, command: str
) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        refused(2, "holds no cdgen corpus", command=lambda out=folder: cdgen(command, out))


def test_a_finished_corpus_without_its_data_is_not_called_complete(
    generate: Command, cdgen: Command, published: Command, out: Path
) -> None:
    assert generate().code == 0
    before = published(out)
    (data,) = (out / "data").iterdir()
    data.unlink()
    verified = cdgen("verify", out)
    assert f"\nDelete {out}/manifest.json and run the same" in verified.out
    assert verified.err == f"cdgen: {out}: 1 problem\n"
    for ended in (generate(), cdgen("finalize", out)):
        assert ended.code == 5 and "complete" not in ended.out
        assert f"data/{data.name}: No such file" in ended.err
        assert f"Delete {out}/manifest.json and run the same generate command again" in ended.err
    (out / "manifest.json").unlink()
    assert generate().code == 0
    assert published(out) == before


def test_a_damaged_plan_costs_no_ranges(
    generate: Command, cdgen: Command, published: Command, out: Path, tmp_path: Path
) -> None:
    assert generate(out=tmp_path / "whole", range_size=2).code == 0
    assert generate(shard="0/2", range_size=2).code == 0
    made = (out / ".cdgen/ranges/range-0000002.parquet").stat().st_ino
    plan = out / ".cdgen/plan.json"
    plan.write_bytes(plan.read_bytes()[:-9])
    assert f"\nDelete {plan} and run the same generate command again" in cdgen("verify", out).out
    plan.unlink()
    assert generate(shard="0/2", range_size=2, good="/nowhere").code == 4
    assert generate(shard="0/2", range_size=2).code == 0
    assert (out / ".cdgen/ranges/range-0000002.parquet").stat().st_ino == made
    assert generate(range_size=2).code == 0
    assert published(out) == published(tmp_path / "whole")


def test_finalize_waits_for_the_last_shard(
    generate: Command, cdgen: Command, published: Command, out: Path
) -> None:
    ended = generate(shard="0/2", range_size=2)
    assert ended.code == 0
    assert f"after the last: cdgen finalize {out}" in ended.out
    early = cdgen("finalize", out)
    assert early.code == 5
    assert "2 of 5 ranges are missing" in early.err
    shown = cdgen("status", out)
    assert shown.code == 0
    assert "ranges 3/5" in shown.out
    unfinished = cdgen("verify", out)
    assert unfinished.code == 5
    assert "2 of 5 ranges are missing" in unfinished.out
    as_json = cdgen("verify", out, "--json")
    assert as_json.code == 5
    found = json.loads(as_json.out)
    assert not found["intact"]
    assert found["problems"] + found["advice"] == unfinished.out.splitlines()
    assert generate(shard="1/2", range_size=2).code == 0
    assert cdgen("finalize", out).code == 0
    assert "finalized" in cdgen("status", out).out
    assert cdgen("verify", out).out == f"{out}: intact\n"
    whole = {"intact": True, "problems": [], "advice": []}
    assert json.loads(cdgen("verify", out, "--json").out) == whole


# ---- --config ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sedd: 1", "sedd"),
        ("alpha: 2", "--alpha"),
        ("seed: [1", "is not valid YAML"),
        ("- seed", "expected `name: value` lines, got list"),
        ("", "expected `name: value` lines"),
        ("1: 2", "1"),
        ("seed: \xff".encode("latin-1"), "is not valid YAML"),
        ("dry-run: true", "dry"),
    ],
)
def test_a_wrong_config_file_is_refused(
    refused: Command, tmp_path: Path, text: str | bytes, says: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(2, says, config=path)


def test_a_missing_config_file_is_refused(refused: Command, tmp_path: Path) -> None:
    refused(2, "cannot read", "nowhere.yaml", config=tmp_path / "nowhere.yaml")


# ---- --preview -----------------------------------------------------------------------------------


def test_a_preview_prints_the_first_rows_of_the_corpus_and_writes_nothing(
    generate: Command, out: Path
) -> None:
    ended = generate("--preview", 3, out=None)
    assert ended.code == 0, ended.err
    assert not out.parent.exists()
    assert generate(format="jsonl").code == 0
    (path,) = (out / "data").iterdir()
    rows = [json.loads(line) for line in path.read_text().splitlines()[:3]]
    assert ended.out == "".join(
        f"== sequence {row['sequence_id']} of prompt {row['prompt_id']}: {row['prompt_tokens']} +"
        f" {row['new_tokens']} tokens, {row['finish_reason']}\n{row['text']}\n\n"
        for row in rows
    )


def test_a_preview_ends_with_the_prompts(generate: Command) -> None:
    assert generate("--preview", 99, out=None).out.count("== sequence ") == 10


def test_a_preview_reads_a_config_of_a_corpus(generate: Command, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("out: elsewhere\ngrace: 5\nseed: 3\n")
    assert generate("--preview", 1, out=None).out != generate("--preview", 1, config=path).out
    path.write_text("sedd: 1")
    assert generate("--preview", 1, config=path).code == 2


def test_a_preview_is_no_dry_run(generate: Command, refused: Command) -> None:
    refused(2, "--dry-run does not go with", command=lambda: generate("--preview", 1, "--dry-run"))


# ---- completion ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("cdgen gen", ["generate"]),
        ("cdgen generate --strategy ", ["cd", "vanilla", "plausible"]),
        ("cdgen generate --kv-dtype b", ["bfloat16"]),
        ("cdgen generate --bad ", []),  # names of files, which the shell knows
        ("cdgen compare --select ", ["validation", "last", "paper"]),
    ],
)
def test_the_shell_is_offered_what_an_option_takes(words: str, offered: list[str]) -> None:
    program = (
        "import sys; from cdgen.cli import app; sys.argv = ['cdgen']\n"
        "try: app.main()\n"
        "finally: print(*({'torch', 'transformers', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    count = len(words.split()) - (not words.endswith(" "))
    asked = {"_CDGEN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    command, environment = [sys.executable, "-c", program], {**os.environ, **asked}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.stdout.split() == offered
    assert ended.stderr.split() == []


# ---- help, tracebacks, progress ----------------------------------------------------------------


def test_help_lists_the_commands(cdgen: Command) -> None:
    ended = cdgen("--help")
    assert ended.code == 0
    for command in ("generate", "status", "verify", "finalize", "train", "doctor"):
        assert f" {command} " in ended.out


def test_help_shows_every_flag_and_its_default(cdgen: Command) -> None:
    words = " ".join(cdgen("generate", "--help").out.split())
    shown = {section.split(" ")[0]: section for section in words.split(" --")}
    for name, field in GenerateConfig.model_fields.items():
        section = shown[name.replace("_", "-")]
        if field.default is not None and not field.is_required() and name != "logprobs":
            assert f"[default: {field.default}]" in section


def test_debug_shows_the_traceback_and_keeps_the_exit_code(cdgen: Command, tmp_path: Path) -> None:
    ended = cdgen("--debug", "status", tmp_path)
    assert "Traceback" in ended.err
    assert "holds no cdgen corpus" in ended.err
    assert ended.code == 2


def test_an_unexpected_error_asks_for_a_report(
    cdgen: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(out: Path) -> None:
        raise ZeroDivisionError("one over\nnothing")

    monkeypatch.setattr("cdgen.corpus.finalize.finalize", fail)
    ended = cdgen("finalize", tmp_path)
    assert ended.code == 1
    assert "unexpected ZeroDivisionError: one over" in ended.err
    assert "--debug" in ended.err
    assert "Traceback" not in ended.err


def test_progress_is_plain_lines_without_a_terminal(
    generate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
    ended = generate()
    assert ended.code == 0
    lines = ended.err.splitlines()
    assert len(lines) > 3
    for line in lines:
        assert "/10 sequences  " in line
        assert "tokens/s  plausible " in line
    assert "\x1b" not in ended.err
    assert "\r" not in ended.err


def test_generic_models_load_without_a_progress_bar(generate: Command, tiny_gpt2_pair: Any) -> None:
    ended = generate(good=tiny_gpt2_pair.good, bad=tiny_gpt2_pair.bad)
    assert ended.code == 0
    assert all("tokens/s" in line for line in ended.err.splitlines()), ended.err


@pytest.mark.parametrize("command", ["generate", "run"])
def test_help_imports_neither_torch_nor_transformers(command: str) -> None:
    program = (
        "import sys; from cdgen.cli import app\n"
        f"sys.argv = ['cdgen', '{command}', '--help']\n"
        "try: app.main()\n"
        "finally: print(*({'torch', 'transformers', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0
    assert ended.stderr.split() == []


def test_an_end_does_not_look_for_garbage(tmp_path: Path) -> None:
    """Looking through what torch leaves alive takes a sixth of a run of one token."""
    code = (
        "import gc, sys\n"
        "from cdgen.cli import app\n"
        "sys.argv = ['cdgen', '--help']\n"
        "import atexit\n"
        "atexit.register(lambda: print('frozen:', gc.get_freeze_count() > 0))\n"
        "app.main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "frozen: True"  # handlers run last in, first out
    assert ended.stderr == ""
