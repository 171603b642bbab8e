"""The folder of a corpus: who may set it up, which plan it takes, one process per shard."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from small_corpus import make_plan

from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.plan import PromptPlan
from cdgen.corpus.shard import Shard
from cdgen.errors import PlanMismatch, StorageError, UsageError
from cdgen.storage import lock

PROMPTS = PromptPlan(source_sha256="a" * 64, tokens_sha256="b" * 64, count=5, prompt_tokens=20)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return a folder whose parent does not exist either."""
    return tmp_path / "runs" / "out"


def begin(out: Path, **changes: Any) -> None:
    with CorpusFolder(out).set_up():
        CorpusFolder(out).open_plan(make_plan(PROMPTS, **changes))


def test_a_folder_goes_on_with_its_own_plan_only(out: Path) -> None:
    begin(out)
    begin(out)
    before = (out / ".cdgen" / "plan.json").read_bytes()
    with pytest.raises(PlanMismatch, match=r"seed: was 0, now 7; max_new_tokens: was 6, now 9"):
        begin(out, seed=7, max_new_tokens=9)
    assert (out / ".cdgen" / "plan.json").read_bytes() == before
    assert CorpusFolder(out).plan == make_plan(PROMPTS)


def test_a_failed_set_up_leaves_nothing(out: Path) -> None:
    with pytest.raises(UsageError), CorpusFolder(out).set_up():
        raise UsageError("no prompts")
    assert not out.parent.exists()
    out.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt), CorpusFolder(out).set_up():
        raise KeyboardInterrupt
    assert list(out.iterdir()) == []


def test_a_failed_set_up_of_a_corpus_that_has_begun_keeps_it(out: Path) -> None:
    begin(out)
    with pytest.raises(UsageError), CorpusFolder(out).set_up():
        raise UsageError("other prompts")
    assert CorpusFolder(out).plan == make_plan(PROMPTS)


def test_other_peoples_folders_and_files_are_refused(out: Path) -> None:
    out.mkdir(parents=True)
    (out / "thesis.tex").write_text("precious")
    with pytest.raises(PlanMismatch, match=r"not empty \(it holds thesis\.tex\)"):
        begin(out)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    with pytest.raises(StorageError, match="is a file"):
        begin(out / "thesis.tex")
    with pytest.raises(StorageError, match=r"is a file|cannot"):
        begin(out / "thesis.tex" / "below")
    with pytest.raises(UsageError, match="no cdgen corpus"):
        _ = CorpusFolder(out).plan


def test_a_place_where_no_folder_can_be_made(out: Path) -> None:
    with pytest.raises(StorageError, match="cannot create the folder /proc/"):
        begin(Path("/proc/cdgen-test/out"))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 99999])
def test_a_damaged_plan_is_named(out: Path, damage: bytes) -> None:
    begin(out)
    (out / ".cdgen" / "plan.json").write_bytes(damage)
    with pytest.raises(StorageError, match=r"plan\.json is damaged"):
        begin(out)


def test_one_process_per_shard(out: Path) -> None:
    begin(out)
    with CorpusFolder(out).hold_shard(Shard(0, 2)):
        for busy in (Shard(0, 2), Shard(0, 1), Shard(2, 4)):
            with pytest.raises(StorageError, match=f"generating shard {busy}"):  # noqa: SIM117
                with CorpusFolder(out).hold_shard(busy):
                    pass
        with CorpusFolder(out).hold_shard(Shard(1, 2)), pytest.raises(StorageError):  # noqa: SIM117
            with CorpusFolder(out).hold_shard(Shard(0, 3)):
                pass
    # Stale lock files of other shards hold nobody back.
    with CorpusFolder(out).hold_shard(Shard(0, 1)):
        pass


@pytest.mark.timeout(30)
def test_workers_that_join_do_not_wait_for_each_other(out: Path) -> None:
    begin(out)
    (out / ".cdgen/prompts/prompts.json").write_text("{}")
    with lock(CorpusFolder(out).locks / "set-up.lock"):
        begin(out)
        with pytest.raises(PlanMismatch):
            begin(out, seed=7)


def test_what_cannot_be_deleted(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error that led to a deletion is reported, one of the deletion itself by name; the
    heartbeat of a worker that ends may stay."""

    def refuse(path: object, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    begin(out)
    heartbeat = CorpusFolder(out).heartbeat_path(Shard(0, 1))
    with CorpusFolder(out).hold_shard(Shard(0, 1)):
        heartbeat.parent.mkdir()
        heartbeat.touch()
        monkeypatch.setattr(os, "unlink", refuse)
    assert heartbeat.exists()
    monkeypatch.setattr(os, "rmdir", refuse)
    other = out.parent / "other"
    with pytest.raises(UsageError, match="no prompts"), CorpusFolder(other).set_up():
        raise UsageError("no prompts")
    with pytest.raises(StorageError, match=r"cannot delete the folder .*: Read-only"):
        begin(other)
