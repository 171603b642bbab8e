"""Read the header of a safetensors file, and refuse it unless it describes the file exactly."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgen.errors import ModelError

_MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
_MAX_DIMENSIONS = 32

# Formats of whole bytes. torch cannot cast the packed four-bit and six-bit formats.
_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as its file's header describes it."""

    file: Path
    dtype: str  # in the header's words: F32, BF16, ...
    shape: tuple[int, ...]
    start: int  # offset of its first byte from the start of the file
    nbytes: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a safetensors file, by name.

    Raises ModelError unless the header is valid and its tensors fill the rest of the file exactly.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            raise _bad_header(path, f"a length of {length} bytes")
        data_start = 8 + length
        if size < data_start:
            raise cut_short(path, data_start, size)
        header = _parse_header(path, file.read(length))
    infos = {name: _tensor_info(path, data_start, name, header[name]) for name in header}
    end = data_start
    for name, info in sorted(infos.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if info.start != end:
            raise _bad_header(path, f"a gap or an overlap before tensor {name!r:.80}")
        end += info.nbytes
    if size < end:
        raise cut_short(path, end, size)
    if size > end:
        raise ModelError(
            f"{path} is longer than promised: {end} bytes expected, {size} found;"
            f" the {size - end} trailing bytes do not belong to it, fetch or save it again"
        )
    return infos


def _parse_header(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        if not raw.startswith(b"{"):
            raise ValueError("it does not begin with '{'")
        header: dict[str, Any] = json.loads(raw.decode(), object_pairs_hook=_without_duplicates)
        "".join(header).encode()  # raises for lone surrogates, which JSON allows but UTF-8 does not
    except (ValueError, RecursionError) as error:
        raise _bad_header(path, f"invalid JSON ({error})") from error
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _bad_header(path, "a __metadata__ that is not a table of strings")
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return table


def _tensor_info(path: Path, data_start: int, name: str, entry: object) -> TensorInfo:
    where = f"of tensor {name!r:.80}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _bad_header(path, f"an entry {where} without exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise _bad_header(path, f"an unsupported dtype {where}: {dtype!r:.40}")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _bad_header(path, f"an impossible shape {where}: {shape!r:.80}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _bad_header(path, f"impossible data_offsets {where}: {offsets!r:.80}")
    nbytes = math.prod(shape) * _ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != nbytes:
        raise _bad_header(
            path, f"{dtype} {shape} {where} as {offsets[1] - offsets[0]} bytes instead of {nbytes}"
        )
    return TensorInfo(path, dtype, tuple(shape), data_start + offsets[0], nbytes)


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _bad_header(path: Path, what: str) -> ModelError:
    return ModelError(
        f"{path} has a bad safetensors header: {what};"
        " fetch it again (in a git clone: git lfs pull)"
    )


def cut_short(path: Path, expected: int, found: int) -> ModelError:
    return ModelError(
        f"{path} is shorter than promised: {expected} bytes expected, {found} found;"
        " the download or copy was cut off, fetch it again"
    )
