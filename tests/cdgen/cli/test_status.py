"""`cdgen status`, once and with --watch."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_corpus import WHOLE, begin, change_heartbeat, ended_process, fill

from cdgen.cli import status as module
from cdgen.corpus.finalize import finalize
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.shard import Shard
from cdgen.corpus.status import beat

Command = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> CorpusFolder:
    return begin(tmp_path / "out")


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Let these functions happen, one each time that the watch pauses; return the pauses."""

    def plan(*events: Callable[[], object]) -> list[float]:
        left, pauses = iter(events), list[float]()

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            next(left)()

        monkeypatch.setattr(time, "sleep", sleep)
        return pauses

    return plan


def interrupt() -> None:
    raise KeyboardInterrupt


def test_lines_until_the_corpus_is_complete(
    cdgen: Command, folder: CorpusFolder, meanwhile: Callable[..., list[float]]
) -> None:
    pauses = meanwhile(
        lambda: beat(folder, WHOLE, 0, 70, 2.0), lambda: fill(folder), lambda: finalize(folder.out)
    )
    ended = cdgen("status", folder.out, "--watch")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0].startswith("ranges 0/5  nobody at work")
    assert lines[1].startswith("ranges 0/5  1 worker  70 tokens  2 tokens/s")
    assert lines[2].startswith("ranges 5/5")
    assert lines[3] == "ranges 5/5, finalized"
    assert pauses == [10.0] * 3


def test_ctrl_c_ends_it_without_a_word(
    cdgen: Command, folder: CorpusFolder, meanwhile: Callable[..., list[float]]
) -> None:
    """The code says that the corpus is not complete."""
    meanwhile(lambda: None, interrupt)
    ended = cdgen("status", folder.out, "--watch")
    assert (ended.code, ended.err) == (130, "")
    assert len(ended.out.splitlines()) == 2


def test_a_live_view_on_a_terminal(
    cdgen: Command,
    folder: CorpusFolder,
    meanwhile: Callable[..., list[float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rich.console import Console

    def terminal() -> Console:
        return Console(file=sys.stderr, force_terminal=True, width=100)

    monkeypatch.setattr(module, "terminal_console", terminal)
    beat(folder, WHOLE, 2, 70, 2.0)
    pauses = meanwhile(lambda: fill(folder), lambda: finalize(folder.out))
    ended = cdgen("status", folder.out, "--watch")
    assert ended.code == 0
    assert "at work, range 2" in ended.err and "sequences 40" in ended.err
    assert "finalized" in ended.out and "\x1b" not in ended.out
    assert pauses == [2.0] * 2


def test_a_complete_corpus_is_not_watched(cdgen: Command, folder: CorpusFolder) -> None:
    fill(folder)
    finalize(folder.out)
    assert cdgen("status", folder.out, "--watch").out == cdgen("status", folder.out).out


def test_a_worker_elsewhere_may_have_another_clock(cdgen: Command, folder: CorpusFolder) -> None:
    beat(folder, WHOLE, 0, 1, 1.0)
    path = folder.heartbeat_path(WHOLE)
    assert "--watch uses one" not in cdgen("status", folder.out).out
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "node-7", "time": 0.0}))
    said = cdgen("status", folder.out).out
    assert "on node-7" in said and "silent for " in said and "--watch uses one" in said


def test_what_a_silent_and_a_killed_worker_mean(cdgen: Command, folder: CorpusFolder) -> None:
    """Their last rates are no longer true."""
    beat(folder, Shard(0, 2), 4, 1, 777.0)
    beat(folder, Shard(1, 2), 3, 1, 777.0)
    change_heartbeat(folder.out, Shard(0, 2), pid=ended_process())
    change_heartbeat(folder.out, Shard(1, 2), host="node-7", time=time.time() - 203)
    said = cdgen("status", folder.out).out
    assert "gone, range 4: it ended without finishing; run the same command again to resume" in said
    assert re.search("silent for 20[34] s, range 3: it was killed, hangs, or is cut off", said)
    assert "777" not in said
    gone, silent = json.loads(cdgen("status", folder.out, "--json").out)["workers"]
    assert (gone["alive"], gone["gone"]) == (False, True)
    assert (silent["alive"], silent["gone"]) == (False, False)


def test_as_json(cdgen: Command, folder: CorpusFolder) -> None:
    beat(folder, WHOLE, 1, 40, 12.5)
    found = json.loads(cdgen("status", folder.out, "--json").out)
    assert set(found) == {
        *("ranges_done", "ranges_total", "finalized", "counts", "models", "bad_of_good"),
        *("workers", "eta_seconds"),
    }
    assert (found["ranges_done"], found["finalized"]) == (0, False)
    (worker,) = found["workers"]
    assert worker["alive"] and worker["tokens_per_second"] == 12.5
    fill(folder)
    finalize(folder.out)
    found = json.loads(cdgen("status", folder.out, "--json").out)
    assert found["finalized"] and found["workers"] == []
    assert found["counts"]["rows"] == folder.plan.num_sequences
    ended = cdgen("status", folder.out, "--json", "--watch")
    assert ended.code == 2
    assert "--json does not go with --watch" in ended.err


def test_a_folder_without_a_corpus(cdgen: Command, tmp_path: Path) -> None:
    ended = cdgen("status", tmp_path, "--watch")
    assert ended.code == 2 and "holds no cdgen corpus" in ended.err
