"""The process of a stage on a Ray cluster, without the cluster: what a lost node does to it.

tests/cdgen/generation/test_ray.py runs stages on a real one.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdgen.experiment.processes import RayProcess, StageOnNode
from cdgen.generation.ray.cluster import Share

ray = pytest.importorskip("ray")
LOST = ray.exceptions.RayActorError()


class Actor:
    """Answers like the handle of an actor; a call is a number that counts up."""

    calls = 0

    def __init__(self, *arguments: object) -> None:
        self.run = self.pass_on = self

    def options(self, **options: object) -> Actor:
        return self

    def remote(self, *arguments: object) -> Any:
        if not arguments:
            return self
        Actor.calls += 1
        return Actor.calls


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the calls end with these codes or errors, one after the other."""

    def set_ends(*results: int | Exception) -> None:
        left = list(results)

        def get(call: int) -> int:
            result = left.pop(0)
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(Actor, "calls", 0)
        monkeypatch.setattr(ray, "remote", lambda **options: Actor)
        monkeypatch.setattr(ray, "wait", lambda calls, timeout: (calls, []))
        monkeypatch.setattr(ray, "get", get)
        monkeypatch.setattr(ray, "kill", lambda actor: None)

    return set_ends


def test_a_stage_whose_node_is_lost_begins_again(ends: Callable[..., None], tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    ends(LOST, LOST, 4)
    process = RayProcess(("train",), log, Share(1, 0))
    assert [process.poll(), process.poll(), process.poll()] == [None, None, 4]
    assert Actor.calls == 3
    assert log.read_text() == 2 * "cdgen: the node was lost: begun again on another\n"
    assert process.poll() == process.returncode == 4


def test_three_lost_nodes_are_enough(ends: Callable[..., None], tmp_path: Path) -> None:
    ends(LOST, LOST, LOST)
    process = RayProcess(("train",), tmp_path / "a.log", Share(1, 0))
    assert process.wait() == 75
    assert (tmp_path / "a.log").read_text().endswith("cdgen: 3 nodes were lost\n")


def test_a_stage_that_was_told_to_end_does_not_begin_again(
    ends: Callable[..., None], tmp_path: Path
) -> None:
    ends(LOST)
    process = RayProcess(("train",), tmp_path / "a.log", Share(1, 0))
    process.send_signal(signal.SIGINT)
    assert process.poll() == 75


def test_a_wait_that_is_too_long(
    ends: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends()
    monkeypatch.setattr(ray, "wait", lambda calls, timeout: ([], calls))
    process = RayProcess(("train",), tmp_path / "a.log", Share(1, 0))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.0)
    process.kill()
    assert process.poll() == -signal.SIGKILL


def test_the_actor_runs_the_command_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(sys.executable).parent)  # and back again
    log = tmp_path / "a.log"
    code = StageOnNode().run(("status", "corpus"), str(tmp_path), str(log), {})
    assert code == 2 and "corpus holds no cdgen corpus" in log.read_text()
    assert Path.cwd() == tmp_path
