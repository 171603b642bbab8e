"""OUT, the folder that the workers of a corpus share: what is where, and who may write."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cdgen.corpus.plan import Plan, parse_plan, require_same
from cdgen.corpus.shard import Shard
from cdgen.errors import PlanMismatch, StorageError, UsageError
from cdgen.storage import (
    lock,
    make_folder,
    read_record,
    remove_file,
    remove_temporaries,
    temporary_of,
    write_record,
)

STATE = ".cdgen"  # the folder in OUT for all that is not the corpus itself


def prompts_folder(out: Path) -> Path:
    return out / STATE / "prompts"


def heartbeat_path(out: Path, shard: Shard) -> Path:
    return out / STATE / "heartbeats" / f"shard-{shard.label}.json"


def is_finalized(out: Path) -> bool:
    return (out / "manifest.json").exists()


def has_plan(out: Path) -> bool:
    return (out / STATE / "plan.json").exists() or is_finalized(out)


def read_plan(out: Path) -> Plan:
    """The plan of the corpus in `out`.

    Raises UsageError if there is none, StorageError if it is damaged, PlanMismatch if it has
    another format.
    """
    path = out / STATE / "plan.json"
    if path.exists():
        return parse_plan(read_record(path), str(path))
    if is_finalized(out):
        path = out / "manifest.json"
        return parse_plan(read_record(path)["plan"], str(path))
    raise UsageError(f"{out} holds no cdgen corpus: expected {path} in it.")


@contextmanager
def set_up(out: Path) -> Iterator[None]:
    """Hold `out` while its prompts and plan are made or compared; other workers wait meanwhile.

    If the block raises before `out` has a plan, all that was written is removed again. Raises
    PlanMismatch if `out` holds something else, StorageError if it cannot be written.
    """
    _require_ours(out)
    state = out / STATE
    absent = [folder for folder in (state, out, *out.parents) if not folder.exists()]
    try:
        with lock(state / "locks" / "set-up.lock"), _undone_without_plan(state):
            remove_temporaries(state)
            if not (state / "plan.json").exists() and prompts_folder(out).exists():
                shutil.rmtree(prompts_folder(out))  # of a set-up that was killed
            make_folder(prompts_folder(out))
            remove_temporaries(prompts_folder(out))
            yield
    except BaseException:
        for folder in (state / "locks", *absent):
            with suppress(OSError):  # not empty: it holds what somebody else put there
                folder.rmdir()
        raise


@contextmanager
def _undone_without_plan(state: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if not (state / "plan.json").exists():
            shutil.rmtree(state)
        raise


def _require_ours(out: Path) -> None:
    try:
        if out.exists() and not out.is_dir():
            raise StorageError(f"--out {out} is a file: choose a folder.")
        content = sorted(path.name for path in out.iterdir()) if out.exists() else []
    except OSError as error:
        raise StorageError(f"--out {out} cannot be read: {error.strerror}.") from error
    if content and STATE not in content and "manifest.json" not in content:
        raise PlanMismatch(
            f"--out {out} is not empty (it holds {content[0]}) and no cdgen corpus: "
            "choose an empty or a new folder."
        )


def open_plan(out: Path, plan: Plan) -> None:
    """Begin the corpus of `plan` in `out`, or go on with it. Call it inside `set_up`.

    Raises PlanMismatch naming what differs if `out` has another plan.
    """
    if has_plan(out):
        require_same(read_plan(out), plan, out)
    if not is_finalized(out):
        make_folder(out / STATE / "ranges")
    if not (out / STATE / "plan.json").exists():
        write_record(out / STATE / "plan.json", plan.fields)


@contextmanager
def hold_shard(out: Path, shard: Shard) -> Iterator[None]:
    """Be the only process that works on the ranges of `shard`, and tidy up after killed ones.

    Raises StorageError at once if another process holds a shard that shares ranges with this one.
    """
    locks = out / STATE / "locks"
    busy = (
        f"another process is generating shard {shard} of {out}, or one that shares ranges with it: "
        "wait for it, stop it, or give every process its own --shard I/N of the same N."
    )
    with ExitStack() as held:
        with lock(locks / "set-up.lock"):  # newcomers one by one: they try each other's locks
            held.enter_context(lock(locks / f"shard-{shard.label}.lock", busy))
            for path in locks.glob("shard-*.lock"):
                other = Shard.parse(path.stem.removeprefix("shard-").replace("-of-", "/"))
                if other != shard and other.overlaps(shard):
                    with lock(path, busy):
                        pass
        heartbeat = heartbeat_path(out, shard)
        remove_file(temporary_of(heartbeat))
        remove_temporaries(out / STATE / "ranges", lambda name: shard.owns(_range_index(name)))
        try:
            yield
        finally:
            heartbeat.unlink(missing_ok=True)


def _range_index(file_name: str) -> int:
    """From any file name in the folder of ranges, such as `.range-0000007.json.tmp`."""
    return int(file_name.split("-")[1].partition(".")[0])
