"""`cdgen doctor`: the facts, the self-test, and the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdgen import doctor, machine
from cdgen.kernels import self_test

Command = Callable[..., Any]
FACTS = (
    *("versions", "system", "processor", "gpu", "memory", "disk", "environment", "kernels"),
    "problems",
)


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[self_test.Outcome]:
    """Return what the self-test is to find, to be changed; it is run once, without Triton."""
    monkeypatch.setattr(self_test, "interpreting", lambda: False)
    found = self_test.self_test()
    monkeypatch.setattr(self_test, "self_test", lambda: found)
    return found


def test_a_machine_on_which_all_is_well(
    cdgen: Command, outcomes: list[self_test.Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ended = cdgen("doctor")
    assert (ended.code, ended.err) == (0, "")
    for name in (*doctor.PACKAGES, "python"):
        assert f"{name} " in ended.out
    assert "torch 2." in ended.out and machine.instruction_set() in ended.out
    assert "OMP_NUM_THREADS=1" in ended.out
    assert "cpu    sample_contrastive_heads      ok" in ended.out
    shown = json.loads(cdgen("doctor", "--json").out)
    assert list(shown) == list(FACTS)
    assert shown["problems"] == []
    assert shown["memory"]["total_bytes"] > 1 << 30
    assert 0 < shown["disk"]["free_bytes"] < shown["disk"]["total_bytes"]
    assert shown["processor"]["cores"] >= 1 and shown["processor"]["name"]
    assert len(shown["kernels"]) == len(outcomes)


def test_a_kernel_that_differs_is_an_error(
    cdgen: Command, outcomes: list[self_test.Outcome]
) -> None:
    place = [outcome.op for outcome in outcomes].index("decode_attention")
    outcomes[place] = replace(outcomes[place], result="differs", reason="off by up to 0.5")
    ended = cdgen("doctor")
    assert ended.code == 1
    assert "differs: off by up to 0.5" in ended.out
    said = "decode_attention on backend cpu differs from its reference (off by up to 0.5)"
    assert ended.err == f"cdgen: {said}\n"
    assert json.loads(cdgen("doctor", "--json").out)["problems"] == [said]


def test_a_machine_on_which_nothing_can_run(
    cdgen: Command, outcomes: list[self_test.Outcome]
) -> None:
    outcomes[:] = [replace(one, result="not available here") for one in outcomes]
    ended = cdgen("doctor")
    assert ended.code == 1
    assert "no kernel can run here: build the native ones (pip install -e .)" in ended.err


def test_a_gpu_is_described() -> None:
    line = doctor._gpu_line(
        {
            "name": "H100",
            "capability": "9.0",
            "memory_bytes": 85e9,
            "driver": "580.1",
            "cuda": "13.0",
        }
    )
    assert line == "H100, compute capability 9.0, 85.0 GB, driver 580.1, CUDA 13.0"


def test_what_linux_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {
        "/proc/cpuinfo": "processor : 0\nmodel name : A CPU\nflags : sse avx2 f16c\n",
        "/proc/mounts": "/dev/a / ext4 rw 0 0\nserver:/x /data nfs4 rw 0 0\n",
    }
    monkeypatch.setattr(Path, "read_text", lambda self: files[str(self)])
    assert machine.processor() == "A CPU"
    assert machine.processor_flags() == ["f16c", "avx2"]
    assert machine._file_system(Path("/data/corpora")) == "nfs4"
    assert machine._file_system(Path("/home")) == "ext4"


def test_where_linux_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert machine.processor() != ""
    assert machine.processor_flags() == []
    assert machine._file_system(Path("/home")) == "(unknown)"
    assert doctor._gb(machine.memory()["free_bytes"]) == "(unknown)"


def test_its_help_is_light() -> None:
    program = (
        "import sys; from cdgen.cli import app\n"
        "sys.argv = ['cdgen', 'doctor', '--help']\n"
        "try: app.main()\n"
        "finally: print(*({'torch', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.split()) == (0, [])
