"""Token files: made once, reused until something they depend on changes, safe with two makers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdgen.train.data.token_files import Tokens, reuse_or_build

KEY = {"sources": ["a"], "seed": 0}


class Maker:
    def __init__(self, count: int = 3) -> None:
        self.calls = 0
        self.array = np.arange(count * 4, dtype=np.int32).reshape(count, 4)

    def __call__(self) -> Tokens:
        self.calls += 1
        return Tokens({"real": self.array, "a/b": self.array[::2]}, {"words": 7})


def made(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_second_call_maps_the_files_of_the_first(tmp_path: Path) -> None:
    maker = Maker()
    first = reuse_or_build(tmp_path / "tokens", KEY, maker)
    second = reuse_or_build(tmp_path / "tokens", KEY, maker)
    assert maker.calls == 1
    for found in (first, second):
        assert isinstance(found.arrays["real"], np.memmap)
        assert np.array_equal(found.arrays["real"], maker.array)
        assert np.array_equal(found.arrays["a/b"], maker.array[::2])
        assert found.facts == {"words": 7}
    second.arrays["real"][0, 0] = 9  # torch wants it writable; the file stays as it is
    assert reuse_or_build(tmp_path / "tokens", KEY, maker).arrays["real"][0, 0] == 0
    assert not any(path.name.endswith(".tmp") for path in made(tmp_path))


def test_arrays_without_a_block_are_read_back(tmp_path: Path) -> None:
    for _ in range(2):
        assert reuse_or_build(tmp_path, KEY, Maker(0)).arrays["real"].shape == (0, 4)


def test_without_a_folder_nothing_is_written() -> None:
    maker = Maker()
    assert reuse_or_build(None, KEY, maker).arrays["real"] is maker.array


def test_another_key_is_another_entry(tmp_path: Path) -> None:
    maker = Maker()
    reuse_or_build(tmp_path, KEY, maker)
    reuse_or_build(tmp_path, {**KEY, "seed": 1}, maker)
    reuse_or_build(tmp_path, KEY, maker)
    assert maker.calls == 2


@pytest.mark.parametrize("name", ["0.npy", "1.npy", "facts.json"])
@pytest.mark.parametrize("damage", ["a byte", "cut", "removed"])
def test_damaged_files_are_built_again(
    tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    maker = Maker()
    reuse_or_build(tmp_path, KEY, maker)
    (path,) = tmp_path.glob(f"*/{name}")
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + (b"?" if damage == "a byte" else b""))
    found = reuse_or_build(tmp_path, KEY, maker)
    assert np.array_equal(found.arrays["real"], maker.array)
    assert maker.calls == 2
    assert path.read_bytes() == content
    said = capsys.readouterr().out
    assert ("damaged; it is made again" in said) == ((name, damage) != ("facts.json", "removed"))


def test_an_entry_cut_short_by_an_exception_is_built_again(tmp_path: Path) -> None:
    def fail() -> Tokens:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reuse_or_build(tmp_path, KEY, fail)
    maker = Maker()
    reuse_or_build(tmp_path, KEY, maker)
    assert maker.calls == 1


MAKER = """
import sys, time
from pathlib import Path
import numpy as np
from cdgen.train.data.token_files import Tokens, reuse_or_build

def make():
    with open(sys.argv[2], "a") as log:
        log.write("made\\n")
    time.sleep(float(sys.argv[3]))
    return Tokens({"real": np.ones((2, 3), np.int32)}, {})

assert reuse_or_build(Path(sys.argv[1]), {"seed": 0}, make).arrays["real"].sum() == 6
"""


def test_two_processes_build_an_entry_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command: list[Any] = [sys.executable, "-c", MAKER, tmp_path / "tokens", log, "0.3"]
    makers = [subprocess.Popen(command) for _ in range(2)]
    assert [maker.wait(60) for maker in makers] == [0, 0]
    assert log.read_text() == "made\n"


@pytest.mark.parametrize(
    "point", ["before-write:2", "after-fsync:1", "after-rename:1", "after-rename:2"]
)
def test_a_killed_builder_leaves_nothing_half_built(tmp_path: Path, point: str) -> None:
    log = tmp_path / "log"
    command: list[Any] = [sys.executable, "-c", MAKER, tmp_path / "tokens", log, "0"]
    killed = subprocess.run(command, env={**os.environ, "CDGEN_CRASH_AT": point})
    assert killed.returncode == -signal.SIGKILL
    subprocess.run(command, check=True)
    # The second rename is that of facts.json: with it, all is there.
    assert log.read_text() == "made\n" * (1 if point == "after-rename:2" else 2)
    assert not any(path.name.endswith(".tmp") for path in made(tmp_path))
