"""OUT, the folder that the workers of a corpus share: its layout, its state, and who may write.

OUT/.cdgen/plan.json                       everything that decides the bytes
OUT/.cdgen/models.json                     the names of the models
OUT/.cdgen/prompts/                        the prompt table
OUT/.cdgen/ranges/range-0000007.parquet    or .jsonl; committed once range-0000007.json exists too
OUT/.cdgen/heartbeats/, OUT/.cdgen/locks/  the workers of this moment
OUT/data/, README.md, manifest.json        the finished corpus; the manifest is written last
OUT/prompts.jsonl                          where each of its prompts came from
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path

from cdgen.contained import require_contained
from cdgen.corpus.model_names import ModelNames
from cdgen.corpus.plan import Plan, parse_plan, parse_stored, require_same
from cdgen.corpus.shard import Shard
from cdgen.errors import LockHeld, PlanMismatch, StorageError, UsageError
from cdgen.storage import (
    lock,
    make_folder,
    read_record,
    remove_file,
    remove_temporaries,
    remove_tree,
    temporary_of,
    write_record,
)

PROMPT_RECORD = "prompts.json"  # written last of the prompt table
STATE = ".cdgen"  # the folder in OUT for everything that is not the corpus itself


class CorpusFolder:
    """The folder of one corpus. Only the plan is remembered; all other state is read anew, because
    other workers may change it."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.state = out / STATE
        self.prompts = self.state / "prompts"
        self.ranges = self.state / "ranges"
        self.heartbeats = self.state / "heartbeats"
        self.locks = self.state / "locks"
        self.plan_file = self.state / "plan.json"
        self.names_file = self.state / "models.json"
        self.data = out / "data"
        self.card = out / "README.md"
        self.prompt_origins = out / "prompts.jsonl"
        self.manifest_file = out / "manifest.json"

    def __str__(self) -> str:
        return str(self.out)

    @property
    def is_finalized(self) -> bool:
        return self.manifest_file.exists()

    @property
    def has_plan(self) -> bool:
        return self.plan_file.exists() or self.is_finalized

    @cached_property
    def plan(self) -> Plan:
        """The plan of the corpus.

        Raises UsageError if there is none, StorageError if it is damaged, PlanMismatch if it has
        another format.
        """
        if self.plan_file.exists():
            return parse_plan(read_record(self.plan_file), str(self.plan_file))
        if self.is_finalized:
            return parse_plan(read_record(self.manifest_file).get("plan"), str(self.manifest_file))
        raise UsageError(f"{self.out} holds no cdgen corpus: expected {self.plan_file} in it.")

    @property
    def model_names(self) -> ModelNames | None:
        """The names of the models; None in corpora of earlier versions. Raises StorageError."""
        if not self.names_file.exists():
            return None
        fields = read_record(self.names_file)
        return parse_stored(ModelNames, fields, self.names_file, "record of models")

    # ---- paths ---------------------------------------------------------------------------------

    def range_path(self, index: int) -> Path:
        """Return the file of a range's rows."""
        return self.ranges / f"range-{index:07}.{self.plan.format}"

    def range_entry_path(self, index: int) -> Path:
        """Return the file whose presence commits a range."""
        return self.ranges / f"range-{index:07}.json"

    def data_path(self, index: int) -> Path:
        """Return a file of the finished corpus."""
        return self.data / f"train-{index:05}-of-{self.plan.num_files:05}.{self.plan.format}"

    def heartbeat_path(self, shard: Shard) -> Path:
        return self.heartbeats / f"shard-{shard.label}.json"

    def require_contained(self) -> None:
        """Raise StorageError if a folder or a file of the corpus is a link out of it."""
        folders = (self.state, self.prompts, self.ranges, self.heartbeats, self.locks, self.data)
        files = (self.plan_file, self.names_file, self.card, self.prompt_origins)
        require_contained(self.out, (*folders, *files, self.manifest_file))

    # ---- setting up and locking ----------------------------------------------------------------

    @contextmanager
    def set_up(self) -> Iterator[None]:
        """Hold the folder while its prompts and plan are made; other workers wait.

        Once both are there, nothing is left to write: a thousand workers may then read and compare
        them at the same time. If the block raises before there is a plan, everything that was
        written is removed again, unless there are ranges of an earlier call. Raises PlanMismatch if
        the folder holds something else, StorageError if it is not writable.
        """
        self._require_ours()
        if self.plan_file.exists() and (self.prompts / PROMPT_RECORD).exists():
            remove_temporaries(self.state)  # nobody writes there any more
            yield
            return
        absent = [path for path in (self.state, self.out, *self.out.parents) if not path.exists()]
        try:
            with lock(self.locks / "set-up.lock"), self._undone_without_plan():
                remove_temporaries(self.state)
                if not self.plan_file.exists():
                    remove_tree(self.prompts)  # left by a set-up that was killed
                make_folder(self.prompts)
                remove_temporaries(self.prompts)
                yield
        except BaseException:
            for path in (self.locks, *absent):
                with suppress(OSError):  # not empty: somebody else put something there
                    path.rmdir()
            raise

    @contextmanager
    def _undone_without_plan(self) -> Iterator[None]:
        has_ranges = any(self.ranges.glob("*"))  # a user deleted a damaged plan: they are good
        try:
            yield
        except BaseException:
            if not self.plan_file.exists() and not has_ranges:
                shutil.rmtree(self.state, ignore_errors=True)  # report the error that led here
            raise

    def _require_ours(self) -> None:
        try:
            if self.out.exists() and not self.out.is_dir():
                raise StorageError(f"--out {self.out} is a file: choose a folder.")
            paths = self.out.iterdir() if self.out.exists() else []
            content = sorted(path.name for path in paths)
            self.require_contained()
        except OSError as error:
            raise StorageError(f"--out {self.out} cannot be read: {error.strerror}.") from error
        if content and STATE not in content and self.manifest_file.name not in content:
            raise PlanMismatch(
                f"--out {self.out} is not empty (it holds {content[0]}) and no cdgen corpus: "
                "choose an empty or a new folder."
            )

    def open_plan(self, plan: Plan, names: ModelNames | None = None) -> None:
        """Begin the corpus of `plan`, by models of these names, or resume it. Call this inside
        `set_up`.

        Raises PlanMismatch, with the differences, if the folder has another plan, or ranges of one.
        """
        if self.has_plan:
            require_same(self.plan, plan, self.out)
        if not self.is_finalized:
            make_folder(self.ranges)
            self._name_models(names)
        if not self.plan_file.exists():
            self._require_no_ranges_of_another(plan)
            write_record(self.plan_file, plan.fields)

    def _name_models(self, names: ModelNames | None) -> None:
        """Write the names of the models, unless the call that began the corpus did."""
        if names and not (self.plan_file.exists() and self.names_file.exists()):
            with lock(self.locks / "names.lock"):  # workers that join do so at the same time
                write_record(self.names_file, names.model_dump(mode="json"))

    def _require_no_ranges_of_another(self, plan: Plan) -> None:
        """Raise PlanMismatch if ranges of another plan outlived their plan.json."""
        for path in self.ranges.glob("range-*.json"):
            with suppress(StorageError):  # a damaged range is made again
                if read_record(path).get("plan_sha256") != plan.sha256:
                    raise PlanMismatch(
                        f"{self.out} has no {self.plan_file.name}, but ranges made from another"
                        " plan: use the earlier values (also of --slots and --range-size, if they"
                        f" were auto), or delete {self.ranges} to begin anew."
                    )

    @contextmanager
    def hold_shard(self, shard: Shard) -> Iterator[None]:
        """Be the only process that works on the ranges of `shard`, and tidy up after killed ones.

        Raises StorageError at once if another process holds a shard that shares ranges with it.
        """
        busy = (
            f"another process is generating shard {shard} of {self.out}, or one that shares ranges"
            " with it: wait for it, stop it, or give every process its own --shard I/N of the same"
            " N."
        )
        with ExitStack() as held:
            with lock(self.locks / "set-up.lock"):  # one newcomer at a time tries the other locks
                held.enter_context(lock(self._lock_of(shard), busy))
                for other in self.begun_shards():
                    if other != shard and other.overlaps(shard):
                        # Nobody is at work there, though one may have been killed.
                        with lock(self._lock_of(other), busy):
                            remove_file(self.heartbeat_path(other))
            heartbeat = self.heartbeat_path(shard)
            remove_file(temporary_of(heartbeat))
            remove_temporaries(self.ranges, lambda name: shard.owns(_range_index(name)))
            try:
                yield
            finally:
                with suppress(OSError):  # what is left of it harms nobody: it only looks silent
                    heartbeat.unlink()

    def begun_shards(self) -> list[Shard]:
        """Return the shards that some process has worked on, by the locks that they leave."""
        shards = []
        for path in sorted(self.locks.glob("shard-*.lock")):
            with suppress(UsageError):  # a file that is none of ours
                shards.append(Shard.parse(path.stem.removeprefix("shard-").replace("-of-", "/")))
        return shards

    def busy_shards(self) -> list[Shard]:
        """Return the shards that some process works on now."""
        busy = []
        with lock(self.locks / "set-up.lock"):  # else a newcomer might find a lock that we try
            for shard in self.begun_shards():
                try:
                    with lock(self._lock_of(shard), "busy"):
                        pass
                except LockHeld:
                    busy.append(shard)
        return busy

    def _lock_of(self, shard: Shard) -> Path:
        return self.locks / f"shard-{shard.label}.lock"


def _range_index(file_name: str) -> int:
    """Return the index in a file name of the folder of ranges, as in `.range-0000007.json.tmp`."""
    return int(file_name.split("-")[1].partition(".")[0])
