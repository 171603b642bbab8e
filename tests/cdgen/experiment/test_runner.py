"""The order of stages, and what becomes of those that fail, with stages that take no time."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cdgen.errors import CdgenError, StorageError, UsageError
from cdgen.experiment.layout import Layout
from cdgen.experiment.processes import held_by_stages
from cdgen.experiment.record import read_stages
from cdgen.experiment.runner import Runner, last_line
from cdgen.experiment.stages import Stage
from cdgen.experiment.view import View


@pytest.fixture
def order() -> list[str]:
    return []


@pytest.fixture
def stage(order: list[str]) -> Callable[..., Stage]:
    """Return a stage that notes its name, or that fails with an error."""

    def make(name: str, *needs: str, error: Exception | None = None, lies: bool = False) -> Stage:
        done = False

        def act() -> None:
            nonlocal done
            order.append(name)
            if error:
                raise error
            done = not lies

        return Stage(name, ("run",), needs, Path(name), lambda: done, action=act)

    return make


def run(stages: list[Stage], out: Path) -> None:
    layout = Layout(out)
    view = View(stages, lambda stage: last_line(layout.log(stage.name)))
    Runner(stages, layout, 1, view).run()


def test_a_stage_waits_for_what_it_needs(
    stage: Callable[..., Stage], order: list[str], tmp_path: Path
) -> None:
    run([stage("c", "b"), stage("b", "a"), stage("d"), stage("a")], tmp_path)
    assert order == ["d", "a", "b", "c"]
    assert [record.state for record in read_stages(tmp_path).values()] == ["done"] * 4


@pytest.mark.parametrize(
    "error, kind", [(UsageError("no such task"), UsageError), (OSError(28, "full"), StorageError)]
)
def test_others_go_on_after_a_failure(
    stage: Callable[..., Stage],
    order: list[str],
    tmp_path: Path,
    error: Exception,
    kind: type[CdgenError],
) -> None:
    stages = [stage("a", error=error), stage("b", "a"), stage("c", "b"), stage("d")]
    with pytest.raises(kind, match=r"1 of 4 stages failed \(a\); 2 that need them") as failed:
        run(stages, tmp_path)
    assert order == ["a", "d"]
    assert last_line(tmp_path / "logs/a.log") in str(failed.value)
    states = {name: record.state for name, record in read_stages(tmp_path).items()}
    assert states == {"a": "failed", "d": "done"}


def test_success_without_a_result_is_a_failure(
    stage: Callable[..., Stage], order: list[str], tmp_path: Path
) -> None:
    with pytest.raises(CdgenError, match=r"1 of 2 stages failed \(a\)"):
        run([stage("a", lies=True), stage("b", "a")], tmp_path)
    assert order == ["a"]


def test_a_clock_that_was_ahead_does_not_keep_a_stage_from_being_done(tmp_path: Path) -> None:
    scores, result = tmp_path / "scores", tmp_path / "result"
    scores.touch()
    os.utime(scores, (4e9, 4e9))

    def is_done() -> bool:
        return result.exists() and result.stat().st_mtime_ns >= scores.stat().st_mtime_ns

    stage = Stage("a", ("run",), (), result, is_done, None, None, result.touch, lambda: [scores])
    run([stage], tmp_path / "out")
    assert read_stages(tmp_path / "out")["a"].state == "done"


def test_attempts_and_seconds_add_up(stage: Callable[..., Stage], tmp_path: Path) -> None:
    for attempt in (1, 2):
        with pytest.raises(CdgenError):
            run([stage("a", error=UsageError("no"))], tmp_path)
        assert read_stages(tmp_path)["a"].attempts == attempt
    run([stage("a")], tmp_path)
    assert read_stages(tmp_path)["a"].attempts == 3


def test_the_last_line_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert last_line(log) == ""
    log.write_bytes(b"x" * 10_000 + b"\nfirst\rsecond\xff\n\n  \n")
    assert last_line(log) == "second\ufffd"


def test_stages_of_a_run_that_was_killed_are_waited_for(
    stage: Callable[..., Stage], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stage inherits the lock and keeps it after the end of its run."""
    ended = tmp_path / "ended"
    with held_by_stages(Layout(tmp_path).stages_lock) as descriptor:
        left = subprocess.Popen(["sh", "-c", f"sleep 0.3; touch {ended}"], pass_fds=[descriptor])
    assert not ended.exists()
    run([stage("a")], tmp_path)
    assert ended.exists() and left.wait() == 0
    assert "waiting for stages of a run that was killed" in capsys.readouterr().err


def test_a_file_system_without_locks_is_not_waited_for(
    stage: Callable[..., Stage],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def none_left(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", none_left)
    with pytest.raises(StorageError, match="Mount its file system with locks"):
        run([stage("a")], tmp_path)
    assert "waiting" not in capsys.readouterr().err
