"""What keeps writes within the folder that the user named: OUT may be a link, but nothing in it
leads out of it, and a name that was read from a file is a name and no path."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cdgen.errors import StorageError


def require_contained(out: Path, places: Iterable[Path]) -> None:
    """Raise StorageError if one of `places`, which are in `out` or below, is a link out of it.

    Nobody but the user is to write into `out` meanwhile: links made later are not seen.
    """
    real = Path(os.path.realpath(out))
    for place in places:
        if place.is_symlink() and not Path(os.path.realpath(place)).is_relative_to(real):
            raise StorageError(
                f"{place} is a link out of {out}, and nothing is written through it: remove it, or"
                " name the folder that it leads to as --out"
            )


def links_below(folder: Path) -> Iterator[Path]:
    """Yield every link in `folder` and the folders below it; none is followed."""
    if not folder.is_dir():
        return
    for root, folders, files in os.walk(folder):
        paths = (Path(root, name) for name in (*folders, *files))
        yield from (path for path in paths if path.is_symlink())


def is_plain_name(name: object) -> bool:
    """Return whether `name`, read from a file, can be the name of a file or folder in OUT."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {*"/\0"} & {*name}


def is_inner_path(path: object) -> bool:
    """Return whether `path`, read from a file, is a relative path that never leads upwards."""
    return isinstance(path, str) and all(map(is_plain_name, path.split("/")))
