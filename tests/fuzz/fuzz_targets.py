"""What is fuzzed: for each kind of file, a valid one, and everything that reads it.

Each target takes the bytes of one case. It raises nothing: either the file can be used, or it is
refused by a CdgenError of one or two lines.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from damage import damaged

from cdgen.errors import CdgenError

ROOT = Path(__file__).resolve().parents[2]
Case = Callable[[bytes], None]


def refused(read: Callable[[], object]) -> bool:
    """Read a file; return whether it was refused in a line or two."""
    try:
        read()
    except CdgenError as error:
        lines = str(error).split("\n")
        assert len(lines) <= 2 and lines[0], error
        return True
    return False


def variant(valid: Sequence[Any], data: bytes) -> Any:
    """Return the valid file that a case damages."""
    return valid[data[1] % len(valid) if len(data) > 1 else 0]


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _yaml(value: Any) -> bytes:
    return yaml.safe_dump(value).encode()


# ---- checkpoints --------------------------------------------------------------------------------

_CONFIG = {
    "model_type": "llama",
    "vocab_size": 8,
    "hidden_size": 4,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": [1],
    "text_config": {"num_hidden_layers": 1},
    "auto_map": None,
}
_OTHERS = {
    "gpt2": {"vocab_size": 8, "n_embd": 4, "n_layer": 1, "n_head": 2, "n_positions": 64},
    "gpt_neox": {
        **{k: _CONFIG[k] for k in ("vocab_size", "hidden_size", "intermediate_size")},
        **{"num_hidden_layers": 1, "num_attention_heads": 2, "rotary_pct": 0.25},
    },
    "qwen3": {**_CONFIG, "head_dim": 2},
    "mistral": {**_CONFIG, "sliding_window": 16},
    "gptj": {"vocab_size": 8, "n_embd": 4, "n_layer": 1, "n_head": 2, "rotary_dim": 2},
}
_CONFIGS = [_CONFIG, *({**own, "model_type": kind} for kind, own in _OTHERS.items())]
_HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "c": {"dtype": "BOOL", "shape": [], "data_offsets": [32, 33]},
}
_INDEX = {
    "metadata": {"total_size": 66},
    "weight_map": {f"{t}{n}": f"model-{n}.safetensors" for n in (1, 2) for t in "abc"},
}
_ADDED = {
    **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
    **{"id": 0, "content": "<s>", "special": True},
}
_NOTHING = dict.fromkeys(
    ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
)


def _tokenizer(model: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return {"version": "1.0", "added_tokens": [_ADDED], **_NOTHING, **parts, "model": model}


_TOKENIZERS = [
    _tokenizer(
        {"type": "WordLevel", "vocab": {"<s>": 0, "</s>": 1, "a": 2}, "unk_token": "a"},
        pre_tokenizer={"type": "WhitespaceSplit"},
        post_processor={
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
        },
    ),
    _tokenizer(
        {
            **{"type": "BPE", "dropout": None, "unk_token": None, "byte_fallback": False},
            **{"continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False},
            "ignore_merges": False,
            "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4, "\u0120": 5},
            "merges": [["a", "b"]],
        },
        pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                       "use_regex": True},
        decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                 "use_regex": True},
    ),
    _tokenizer(
        {"type": "Unigram", "unk_id": 0, "vocab": [["<s>", 0.0], ["a", -1.0], ["\u2581b", -2.0]],
         "byte_fallback": False},
        normalizer={"type": "Sequence", "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": None}, {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        ]},
        pre_tokenizer={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always",
                       "split": True},
    ),
    _tokenizer(
        {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##",
         "max_input_chars_per_word": 100, "vocab": {"<s>": 0, "a": 1, "##b": 2}},
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Isolated",
                       "invert": False},
        truncation={"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
        padding={"strategy": {"Fixed": 4}, "direction": "Right", "pad_to_multiple_of": None,
                 "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"},
    ),
]  # fmt: skip


def _safetensors(header: Any) -> bytes:
    raw = _json(header)
    return len(raw).to_bytes(8, "little") + raw + bytes(range(33))


def _shard(number: int) -> bytes:
    return _safetensors({f"{name}{number}": v for name, v in _HEADER.items() if name in "abc"})


def _checkpoint(folder: Path) -> Path:
    """Write a checkpoint in two shards. Its tensors are not those of its config."""
    (folder / "config.json").write_bytes(_json(_CONFIG))
    (folder / "tokenizer.json").write_bytes(_json(_TOKENIZERS[0]))
    (folder / "model.safetensors.index.json").write_bytes(_json(_INDEX))
    for number in (1, 2):
        (folder / f"model-{number}.safetensors").write_bytes(_shard(number))
    return folder


def safetensors_header(folder: Path) -> Case:
    from cdgen.checkpoints.safetensors_header import read_header

    path = folder / "model.safetensors"

    def case(data: bytes) -> None:
        path.write_bytes(damaged(data, _HEADER, _safetensors))
        refused(lambda: read_header(path))

    return case


def safetensors_index(folder: Path) -> Case:
    from cdgen.checkpoints.checkpoint import open_checkpoint

    path = _checkpoint(folder) / "model.safetensors.index.json"

    def case(data: bytes) -> None:
        path.write_bytes(damaged(data, _INDEX, _json))
        refused(lambda: open_checkpoint(folder))

    return case


def config_json(folder: Path) -> Case:
    from cdgen.checkpoints.checkpoint import open_checkpoint
    from cdgen.checkpoints.pretrained import tied_tensors
    from cdgen.models.registry import lean_config

    _checkpoint(folder)

    def read() -> None:
        checkpoint = open_checkpoint(folder)
        refused(lambda: lean_config(checkpoint.config, 64))
        tied_tensors(folder)  # makes the model of the config, without memory

    def case(data: bytes) -> None:
        valid = variant(_CONFIGS, data)
        (folder / "config.json").write_bytes(damaged(data, valid, _json))
        refused(read)

    return case


def tokenizer_json(folder: Path) -> Case:
    from cdgen.checkpoints.pair import tokenizer_sha256
    from cdgen.checkpoints.text_prefix import prefix_of
    from cdgen.checkpoints.tokenizer_file import read_tokenizer
    from cdgen.corpus.first_tokens import first_tokens

    path = folder / "tokenizer.json"
    documents = ["a b ab </s>", "<s> \u00e9\U0001f600\u0915\u093f", "  \n\t\0", "x" * 50]

    def read() -> None:
        tokenizer = read_tokenizer(path)
        prefix_of(tokenizer)
        tokenizer_sha256(tokenizer)
        list(first_tokens(documents, tokenizer, (0,), 5))

    def case(data: bytes) -> None:
        valid = variant(_TOKENIZERS, data)
        path.write_bytes(damaged(data, valid, _json))
        refused(read)

    return case


# ---- settings -----------------------------------------------------------------------------------


def train_recipe(folder: Path) -> Case:
    from cdgen.train.config import load_recipe

    path, valid = folder / "recipe.yaml", yaml.safe_load((ROOT / "recipes/smoke.yaml").read_text())

    def case(data: bytes) -> None:
        path.write_bytes(damaged(data, valid, _yaml))
        refused(lambda: load_recipe(path).total_steps)

    return case


def run_recipe(folder: Path) -> Case:
    from cdgen.experiment.checks import recipe_problems, warnings
    from cdgen.experiment.layout import Layout, students_of
    from cdgen.experiment.load import load_run_recipe
    from cdgen.experiment.stages import Plan

    valid = yaml.safe_load((ROOT / "recipes/own-text.yaml").read_text())
    words = [f"word{number}" for number in range(40)]
    (folder / "text.txt").write_text("\n".join(" ".join(words[n:]) for n in range(30)))
    for source in valid["base"]["sources"]:
        source["path"] = "text.txt"
    path, layout = folder / "recipe.yaml", Layout(folder / "out")

    def read() -> None:
        recipe, text = load_run_recipe(path, folder, layout)
        if not recipe_problems(recipe):
            list(warnings(recipe, text))
            list(students_of(recipe))
            Plan(recipe, folder, layout, ("run",)).stages()

    def case(data: bytes) -> None:
        path.write_bytes(damaged(data, valid, _yaml))
        refused(read)

    return case


def generate_config(folder: Path) -> Case:
    from cdgen.generation import config

    path = folder / "generate.yaml"
    fields = config.GenerateConfig.model_fields
    defaults = {name: f.get_default() for name, f in fields.items() if not f.is_required()}
    valid = {**defaults, "good": "good", "bad": "layers:2", "prompts": "p.txt", "out": "out"}

    def case(data: bytes) -> None:
        path.write_bytes(damaged(data, valid, _yaml))
        refused(lambda: config.generate_config({}, path))

    return case


# ---- prompts ------------------------------------------------------------------------------------

_ROWS = [
    {"id": "a", "text": "one two", "meta": {"text": "three"}},
    {"id": 7, "text": "<|endoftext|>"},
    {"text": "\u00e9\U0001f600\n\u2028 four", "id": None},
]


def _lines(rows: Any) -> bytes:
    return b"\n".join(map(_json, rows))


def _parquet(rows: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, compression="zstd")
    return file.getvalue()


def _zstd(content: bytes) -> bytes:
    import pyarrow as pa

    return bytes(pa.compress(content, codec="zstd", asbytes=True))


_PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": _zstd,
}
_KINDS: dict[str, tuple[Any, Callable[[Any], bytes]]] = {
    ".txt": (["one two", "<|endoftext|>", "", "\ufeffthree"], lambda rows: "\n".join(
        map(str, rows)).encode(errors="surrogatepass")),
    ".jsonl": (_ROWS, _lines),
    ".json": (_ROWS, _json),
    ".parquet": ([{"id": n, "text": t, "meta": {"text": t}} for n, t in enumerate("abc")],
                 _parquet),
}  # fmt: skip
_FORMATS = [(kind, packed) for kind in _KINDS for packed in _PACKED]


def prompts(folder: Path) -> Case:
    """Read prompts of every format; the second byte chooses it. Compressed files are damaged before
    they are compressed, or after."""
    from cdgen.corpus.documents import open_source

    def case(data: bytes) -> None:
        kind, packed = variant(_FORMATS, data)
        valid, write = _KINDS[kind]

        def packed_write(rows: Any) -> bytes:
            try:
                return _PACKED[packed](write(rows))
            except Exception:  # pyarrow cannot write such a table
                return b""

        content = damaged(data, valid, packed_write)
        path = folder / f"prompts{kind}{packed}"
        path.write_bytes(content)
        for column in ("text", "meta.text"):
            source = open_source(str(path), column)
            refused(lambda source=source: list(source.documents(others=("id",))))
            refused(source.sha256)

    return case


# ---- corpora ------------------------------------------------------------------------------------


def _corpus(folder: Path, finished: bool) -> Path:
    """Write a corpus of forty made-up rows, all of them or four fifths."""
    from small_corpus import begin, make_rows

    from cdgen.corpus.finalize import finalize
    from cdgen.corpus.ranges import commit_range

    corpus = begin(folder / "corpus", format="jsonl")
    for index in range(corpus.plan.num_ranges - (not finished)):
        commit_range(corpus, index, make_rows(corpus.plan, index))
    if finished:
        finalize(corpus.out)
    return corpus.out


def _record(value: Any) -> bytes:
    """Return a record whose own checksum is right, so that what it holds is looked at."""
    from cdgen.storage import canonical_json, record_checksum

    if not isinstance(value, dict):
        return _json(value)
    fields = {name: v for name, v in value.items() if name != "checksum"}
    return canonical_json({**fields, "checksum": record_checksum(fields)})


def _of_corpus(folder: Path, place: str, finished: bool) -> Case:
    from cdgen.corpus.folder import CorpusFolder
    from cdgen.corpus.ranges import pending_ranges
    from cdgen.corpus.reader import row_of, rows_so_far
    from cdgen.corpus.shard import Shard
    from cdgen.corpus.status import status
    from cdgen.corpus.verify import verify

    out = _corpus(folder, finished)
    valid = json.loads((out / place).read_bytes())

    def case(data: bytes) -> None:
        (out / place).write_bytes(damaged(data, valid, _record))
        refused(lambda: status(out))
        refused(lambda: verify(out))
        refused(lambda: list(rows_so_far(out, ["text"])))
        refused(lambda: row_of(out, 0, ["text"]))
        refused(lambda: pending_ranges(CorpusFolder(out), Shard(0, 1)))

    return case


def plan(folder: Path) -> Case:
    return _of_corpus(folder, ".cdgen/plan.json", finished=False)


def range_entry(folder: Path) -> Case:
    return _of_corpus(folder, ".cdgen/ranges/range-0000001.json", finished=False)


def prompt_record(folder: Path) -> Case:
    return _of_corpus(folder, ".cdgen/prompts/prompts.json", finished=False)


def manifest(folder: Path) -> Case:
    """Without OUT/.cdgen, as a corpus is published: the manifest is all that says what it is."""
    case = _of_corpus(folder, "manifest.json", finished=True)
    shutil.rmtree(folder / "corpus/.cdgen")
    return case


TARGETS: dict[str, Callable[[Path], Case]] = {
    "safetensors header": safetensors_header,
    "safetensors index": safetensors_index,
    "config.json": config_json,
    "tokenizer.json": tokenizer_json,
    "recipe of cdgen train": train_recipe,
    "recipe of cdgen run": run_recipe,
    "settings of cdgen generate": generate_config,
    "prompts": prompts,
    "plan": plan,
    "entry of a range": range_entry,
    "record of the prompts": prompt_record,
    "manifest": manifest,
}


def seeds(name: str) -> list[bytes]:
    """Return cases to begin with: no edit of each valid file, and single edits."""
    variants = {"config.json": len(_CONFIGS), "tokenizer.json": len(_TOKENIZERS)}
    count = variants.get(name, len(_FORMATS) if name == "prompts" else 1)
    edits = [
        b"",
        *(bytes([place, 0, way, 0, 7 * way, 0]) for place in range(3) for way in (0, 4, 7)),
    ]
    return [bytes([1, variant]) + edit for variant in range(count) for edit in edits]


def run_once(name: str, data: bytes) -> None:
    """Try one case in a folder of its own."""
    with TemporaryDirectory() as folder:
        TARGETS[name](Path(folder))(data)
