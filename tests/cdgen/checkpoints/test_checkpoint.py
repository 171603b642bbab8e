"""Opening a checkpoint: which ones are refused with which message, its identity, its tensors."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkpoint_folders import edit_index
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, load_file, save_file

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.config_checks import _SIZE_LIMITS
from cdgen.checkpoints.loading import load_tensors
from cdgen.errors import ModelError

CONFIG = {"model_type": "llama", "vocab_size": 4, "hidden_size": 3, "num_hidden_layers": 1}
TENSORS = {
    "embed": torch.arange(12, dtype=torch.float32).reshape(4, 3),
    "head": torch.arange(12, dtype=torch.bfloat16).reshape(4, 3),
    "mask": torch.tensor([True, False]),
    "norm": torch.ones(3, dtype=torch.float16),
}
SHARDS = {"model-1.safetensors": ("embed", "mask"), "model-2.safetensors": ("head", "norm")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a checkpoint with its weights in one file."""
    return write_checkpoint(tmp_path / "model")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Write the same checkpoint with its weights in two shards."""
    folder = write_checkpoint(tmp_path / "sharded")
    (folder / "model.safetensors").unlink()
    for name, tensors in SHARDS.items():
        save_file({tensor: TENSORS[tensor] for tensor in tensors}, folder / name)
    total = sum(t.numel() * t.element_size() for t in TENSORS.values())
    write_index(folder, total_size=total)
    return folder


def write_checkpoint(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    save_file(TENSORS, folder / "model.safetensors")
    return folder


def write_index(folder: Path, total_size: int, **moved: str) -> None:
    weight_map = {tensor: name for name, tensors in SHARDS.items() for tensor in tensors} | moved
    content = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        open_checkpoint(folder)
    assert caught.value.exit_code == 4
    assert str(caught.value).count("\n") <= 1
    return str(caught.value)


# The folder and its JSON files


def test_a_missing_folder_says_that_models_are_not_fetched_from_the_hub(tmp_path: Path) -> None:
    message = refusal(tmp_path / "HuggingFaceTB/SmolLM2-135M")
    assert "SmolLM2-135M: no such folder" in message
    assert "not fetched from the hub" in message


def test_a_file_instead_of_a_folder_is_refused(folder: Path) -> None:
    assert "model.safetensors is a file" in refusal(folder / "model.safetensors")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("how", ["missing", "a folder"])
def test_a_missing_json_file_is_refused(folder: Path, name: str, how: str) -> None:
    (folder / name).unlink()
    if how == "a folder":
        (folder / name).mkdir()
    assert f"{folder} has no {name}: " in refusal(folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"\xff\xfe\xfa", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[1]", "must hold a JSON object, got list"),
        (b" " * (5 << 20), "is too large to be what its name says"),
        (b"{}", "has no vocab_size"),
    ],
    ids=["cut", "empty", "not UTF-8", "nested", "list", "large", "no vocabulary"],
)
def test_an_unusable_config_is_refused(folder: Path, content: bytes, expected: str) -> None:
    (folder / "config.json").write_bytes(content)
    message = refusal(folder)
    assert "config.json" in message
    assert expected in message


@pytest.mark.parametrize("key", _SIZE_LIMITS)
@pytest.mark.parametrize("value", [0, -1, 2.0, "8", True, 10**30, [1]], ids=repr)
def test_an_absurd_size_is_refused(folder: Path, key: str, value: object) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {key: value}))
    assert f"{key} must be an integer from 1 to {_SIZE_LIMITS[key]}, got" in refusal(folder)


def test_an_unreadable_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert refusal(folder) == f"{folder / 'config.json'} cannot be read: Permission denied"


# Which weight files are accepted


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "x.ckpt"])
def test_pickle_weights_are_refused_with_the_conversion(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    message = refusal(folder)
    assert f"only pickle weights ({name})" in message
    assert "save_pretrained" in message.splitlines()[1]


def test_pickles_beside_safetensors_are_ignored(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    assert set(open_checkpoint(folder).tensors) == set(TENSORS)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter.safetensors")
    (folder / "training_args.bin").write_bytes(b"saved by a trainer, not weights")
    assert "has no weights: expected model.safetensors" in refusal(folder)


def test_a_file_without_tensors_is_refused(folder: Path) -> None:
    save_file({}, folder / "model.safetensors")
    assert "without a single tensor" in refusal(folder)


# The safetensors file


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_shorter_than_promised(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    message = refusal(folder)
    assert f"{path} is shorter than promised" in message
    assert f"{len(content[:kept])} found" in message


def test_a_file_cut_in_its_data_is_refused_with_the_expected_size(folder: Path) -> None:
    path = folder / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-60])
    assert f"{size} bytes expected, {size - 60} found" in refusal(folder)


def test_a_padded_file_is_longer_than_promised(folder: Path) -> None:
    path = folder / "model.safetensors"
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(bytes(7))
    message = refusal(folder)
    assert f"{path} is longer than promised: {size} bytes expected, {size + 7} found" in message
    assert "7 trailing bytes" in message


def write_header(folder: Path, header: bytes, data: bytes) -> None:
    content = len(header).to_bytes(8, "little") + header + data
    (folder / "model.safetensors").write_bytes(content)


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> bytes:
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets}).encode()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"{", "invalid JSON"),
        (b"[]", "does not begin with '{'"),
        (b' {"a":' + entry() + b"}", "does not begin with '{'"),
        (b'{"a":\xff}', "invalid JSON"),
        (b'{"a":' * 100_000, "invalid JSON"),
        (b'{"a":' + entry() + b',"a":' + entry() + b"}", "a name occurs twice"),
        (rb'{"\ud800":' + entry() + b"}", "surrogates not allowed"),
        (b'{"__metadata__":{"format":1},"a":' + entry() + b"}", "not a table of strings"),
        (b'{"a":[]}', "without exactly dtype, shape and data_offsets"),
        (b'{"a":{"dtype":"F32"}}', "without exactly dtype, shape and data_offsets"),
        (b'{"a":' + entry(dtype="F4") + b"}", "unsupported dtype of tensor 'a': 'F4'"),
        (b'{"a":' + entry(dtype=[]) + b"}", "unsupported dtype of tensor 'a': []"),
        (b'{"a":' + entry(shape=[-2, -1]) + b"}", "impossible shape of tensor 'a': [-2, -1]"),
        (b'{"a":' + entry(shape=[True]) + b"}", "impossible shape"),
        (b'{"a":' + entry(shape=[1] * 33) + b"}", "impossible shape"),
        (b'{"a":' + entry(shape=[0, 1 << 64], offsets=[0, 0]) + b"}", "impossible shape"),
        (b'{"a":' + entry(offsets=[0]) + b"}", "impossible data_offsets"),
        (b'{"a":' + entry(offsets=[-8, 0]) + b"}", "impossible data_offsets"),
        (b'{"a":' + entry(shape=[3]) + b"}", "F32 [3] of tensor 'a' as 8 bytes instead of 12"),
        (b'{"a":' + entry(shape=[1 << 62, 4]) + b"}", "as 8 bytes instead of"),
        (b'{"a":' + entry(offsets=[4, 12]) + b"}", "a gap or an overlap before tensor 'a'"),
        (
            b'{"a":' + entry() + b',"b":' + entry(offsets=[4, 12]) + b"}",
            "a gap or an overlap before tensor 'b'",
        ),
    ],
)
def test_a_bad_header_is_refused(folder: Path, header: bytes, expected: str) -> None:
    write_header(folder, header, bytes(8))
    message = refusal(folder)
    assert "model.safetensors has a bad safetensors header: " in message
    assert expected in message


def test_a_header_of_absurd_length_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    message = refusal(folder)
    assert "bad safetensors header: a length of" in message
    assert "git lfs pull" in message


def test_offsets_beyond_the_file_are_refused(folder: Path) -> None:
    write_header(folder, b'{"a":' + entry(shape=[1 << 40], offsets=[0, 1 << 42]) + b"}", bytes(8))
    assert "is shorter than promised" in refusal(folder)


# Shards


def test_shards_hold_the_same_model_as_one_file(folder: Path, sharded: Path) -> None:
    whole, parts = open_checkpoint(folder), open_checkpoint(sharded)
    assert parts.sha256 == whole.sha256
    assert {info.file.name for info in parts.tensors.values()} == set(SHARDS)
    assert_same_tensors(load_tensors(parts, torch.float32), load_tensors(whole, torch.float32))


def test_links_with_plain_names_are_followed(sharded: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(sharded.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(Path("../blobs") / str(number))
    assert set(load_tensors(open_checkpoint(sharded), torch.float32)) == set(TENSORS)


@pytest.mark.parametrize(
    "name", ["../model/model.safetensors", "..", ".", "", "/etc/passwd", "sub/x.safetensors", "x/"]
)
def test_a_shard_outside_the_folder_is_refused(sharded: Path, folder: Path, name: str) -> None:
    edit_index(sharded, lambda index: index["weight_map"].update(embed=name))
    assert f"names {name!r}: a shard must be a plain file name" in refusal(sharded)


def test_a_missing_shard_is_refused(sharded: Path) -> None:
    (sharded / "model-2.safetensors").unlink()
    assert "has no model-2.safetensors: model.safetensors.index.json lists it" in refusal(sharded)


def test_a_truncated_shard_is_named(sharded: Path) -> None:
    path = sharded / "model-2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path} is shorter than promised" in refusal(sharded)


@pytest.mark.parametrize("name", ["model-1.safetensors", "model-2.safetensors"])
def test_a_tensor_that_its_shard_lacks_is_refused(sharded: Path, name: str) -> None:
    edit_index(sharded, lambda index: index["weight_map"].update(extra=name))
    assert f"lists 'extra' in '{name}', which lacks it" in refusal(sharded)


def test_a_tensor_in_another_shard_than_listed_is_refused(sharded: Path) -> None:
    edit_index(sharded, lambda index: index["weight_map"].update(embed="model-2.safetensors"))
    assert "lists 'embed' in 'model-2.safetensors', which lacks it" in refusal(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    save_file(TENSORS, sharded / "model-2.safetensors")
    message = refusal(sharded)
    assert "is in 'model-1.safetensors' and again in 'model-2.safetensors'" in message


def test_a_tensor_that_the_index_lacks_is_refused(sharded: Path) -> None:
    edit_index(sharded, lambda index: index["weight_map"].pop("norm"))
    assert "holds 'norm', which model.safetensors.index.json lacks" in refusal(sharded)


@pytest.mark.parametrize("total_size", [81, 10**15, "80", None])
def test_total_size_is_not_compared(sharded: Path, total_size: object) -> None:
    """Writers count booleans as an eighth of a byte, or sum the sizes of the files."""
    edit_index(sharded, lambda index: index["metadata"].update(total_size=total_size))
    assert set(open_checkpoint(sharded).tensors) == set(TENSORS)


def test_total_size_is_optional(sharded: Path) -> None:
    edit_index(sharded, lambda index: index.pop("metadata"))
    assert set(open_checkpoint(sharded).tensors) == set(TENSORS)


@pytest.mark.parametrize("weight_map", [None, [], {"embed": 1}, "x"], ids=repr)
def test_an_index_without_a_usable_weight_map_is_refused(sharded: Path, weight_map: object) -> None:
    edit_index(sharded, lambda index: index.update(weight_map=weight_map))
    assert "weight_map must map each tensor to its file" in refusal(sharded)


# Identity


def test_identity_follows_the_content_not_the_path(folder: Path) -> None:
    before = open_checkpoint(folder).sha256
    moved = folder.rename(folder.with_name("another name"))
    assert open_checkpoint(moved).sha256 == before
    path = moved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert open_checkpoint(moved).sha256 != before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_identity_covers_the_json_files(folder: Path, name: str) -> None:
    before = open_checkpoint(folder).sha256
    with (folder / name).open("a") as file:
        file.write(" ")
    assert open_checkpoint(folder).sha256 != before


def test_identity_covers_names_dtypes_and_shapes(folder: Path) -> None:
    path = folder / "model.safetensors"
    plain = {"a": torch.zeros(2, 3), "b": torch.zeros(6)}
    variants = [
        plain,
        {"a": torch.zeros(3, 2), "b": torch.zeros(6)},
        {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.zeros(6)},
        {"c": torch.zeros(2, 3), "b": torch.zeros(6)},
    ]
    seen = set()
    for tensors in variants:
        save_file(tensors, path)
        seen.add(open_checkpoint(folder).sha256)
    assert len(seen) == len(variants)


# Tensors


def assert_same_tensors(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_floating_point_tensors_are_cast(folder: Path, dtype: torch.dtype) -> None:
    expected = {n: t.to(dtype) if t.is_floating_point() else t for n, t in TENSORS.items()}
    assert_same_tensors(load_tensors(open_checkpoint(folder), dtype), expected)


def test_loaded_tensors_do_not_follow_the_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    loaded = load_tensors(open_checkpoint(folder), torch.float32)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(loaded["embed"], TENSORS["embed"])


def test_a_file_that_changes_after_the_check_is_refused(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    save_file({"embed": TENSORS["embed"]}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors no longer loads"):
        load_tensors(checkpoint, torch.float32)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        load_tensors(checkpoint, torch.float32)


@pytest.mark.parametrize(("name", "count"), [("good", 47), ("bad", 38)])
def test_trained_checkpoint(stories260k: SimpleNamespace, name: str, count: int) -> None:
    folder: Path = getattr(stories260k, name)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config["model_type"] == "llama"
    assert len(checkpoint.tensors) == count
    expected = load_file(folder / "model.safetensors")
    assert_same_tensors(load_tensors(checkpoint, torch.float32), expected)


# A damaged file is refused, or read as the safetensors library reads it

HEADER_BYTES = st.integers(min_value=0, max_value=400)
DAMAGE = st.one_of(
    st.tuples(st.just("cut"), HEADER_BYTES, st.just(0)),
    st.tuples(st.just("flip"), HEADER_BYTES, st.integers(1, 255)),
    st.tuples(st.just("insert"), HEADER_BYTES, st.integers(0, 255)),
    st.tuples(st.just("append"), st.integers(1, 40), st.integers(0, 255)),
)


def damaged(content: bytes, damage: list[tuple[str, int, int]]) -> bytes:
    for kind, place, value in damage:
        place = min(place, len(content) - 1) if kind != "append" else place
        if kind == "cut":
            content = content[:place]
        elif kind == "flip" and content:
            content = content[:place] + bytes([content[place] ^ value]) + content[place + 1 :]
        elif kind == "insert" and content:
            content = content[:place] + bytes([value]) + content[place:]
        elif kind == "append":
            content += bytes([value]) * place
    return content


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """Write a checkpoint to damage; return its folder and the bytes of its intact weight file."""
    folder = write_checkpoint(tmp_path_factory.mktemp("fuzz") / "model")
    return folder, (folder / "model.safetensors").read_bytes()


def opens_as_the_library_reads(folder: Path, content: bytes) -> bool:
    """Return False if the file is refused; otherwise check that it loads as in the library."""
    (folder / "model.safetensors").write_bytes(content)
    try:
        checkpoint = open_checkpoint(folder)
    except ModelError:
        return False
    loaded = load_tensors(checkpoint, torch.float32)
    expected = {n: t.float() if t.is_floating_point() else t for n, t in load(content).items()}
    torch.testing.assert_close(loaded, expected, rtol=0, atol=0, equal_nan=True)
    return True


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(damage=st.lists(DAMAGE, min_size=1, max_size=3))
def test_randomly_damaged_files(
    fuzzed: tuple[Path, bytes], damage: list[tuple[str, int, int]]
) -> None:
    folder, content = fuzzed
    opens_as_the_library_reads(folder, damaged(content, damage))


def test_every_truncation_and_padding_is_refused(fuzzed: tuple[Path, bytes]) -> None:
    folder, content = fuzzed
    for length in range(len(content)):
        assert not opens_as_the_library_reads(folder, content[:length])
    for extra in (1, 8, 4096):
        assert not opens_as_the_library_reads(folder, content + bytes(extra))


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_header_bit(fuzzed: tuple[Path, bytes], bit: int) -> None:
    folder, content = fuzzed
    header_end = 8 + int.from_bytes(content[:8], "little")
    for place in range(header_end):
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        opens_as_the_library_reads(folder, bytes(flipped))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_every_damaged_json_byte(sharded: Path, name: str) -> None:
    path = sharded / name
    content = path.read_bytes()
    refused = 0
    for place, mask in itertools.product(range(len(content)), (0x01, 0x02, 0x80)):
        flipped = bytearray(content)
        flipped[place] ^= mask
        path.write_bytes(flipped)
        try:
            open_checkpoint(sharded)
        except ModelError:
            refused += 1
    assert refused >= len(content)  # a byte above 0x7f is never valid UTF-8 here
