"""Records of files: the entry of a range, the manifest of a finished corpus, and their checks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator

from cdgen.contained import is_inner_path
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.model_names import ModelNames
from cdgen.corpus.plan import FrozenModel, Plan, parse_plan, parse_stored
from cdgen.corpus.rows import Counts
from cdgen.storage import read_record, sha256_of


def _inner(path: str) -> str:
    if not is_inner_path(path):
        raise ValueError(f"expected a path within the corpus, got {path!r:.80}")
    return path


class WrittenFile(FrozenModel):
    """A file of the corpus: its place and its bytes."""

    path: Annotated[str, AfterValidator(_inner)]  # relative to OUT
    bytes: int
    sha256: str


class FileEntry(Counts, WrittenFile):
    """A file of rows, and the totals over its rows."""

    @property
    def counts(self) -> Counts:
        return Counts.model_validate(self.model_dump(include=set(Counts.model_fields)))


class RangeEntry(FileEntry):
    """The commit of one range."""

    plan_sha256: str


class Manifest(FrozenModel):
    """OUT/manifest.json: a pure function of the plan, the names of the models and the rows, without
    times or host names."""

    plan: Plan
    models: ModelNames | None = None
    plan_sha256: str
    files: tuple[FileEntry, ...]
    totals: Counts
    prompts: WrittenFile | None = None  # where each prompt came from; older corpora lack it

    @property
    def fields(self) -> dict[str, Any]:
        """The manifest in JSON types."""
        fields = self.model_dump(mode="json", exclude=None if self.prompts else {"prompts"})
        return {**fields, "plan": self.plan.fields}


def read_manifest(folder: CorpusFolder) -> Manifest:
    """Read the manifest.

    Raises StorageError if it is damaged, PlanMismatch if it has another format.
    """
    path = folder.manifest_file
    record = read_record(path)
    fields = {**record, "plan": parse_plan(record.get("plan"), str(path))}
    return parse_stored(Manifest, fields, path, "manifest")


def wrong_size(folder: CorpusFolder, entry: WrittenFile) -> str | None:
    """Return why a file does not have the size of its entry, or None if it does. Its content is not
    read."""
    try:
        size = (folder.out / entry.path).stat().st_size
    except OSError as error:
        return f"{entry.path}: {error.strerror}"
    return None if size == entry.bytes else f"{entry.path}: {size} bytes, expected {entry.bytes}"


def damage(folder: CorpusFolder, entry: WrittenFile) -> str | None:
    """Return why a file does not have the bytes of its entry, or None if it does."""
    if problem := wrong_size(folder, entry):
        return problem
    try:
        digest = sha256_of(folder.out / entry.path)
    except OSError as error:
        return f"{entry.path}: {error.strerror}"
    if digest != entry.sha256:
        return f"{entry.path}: damaged, sha256 is {digest[:12]}, expected {entry.sha256[:12]}"
    return None


def foreign(entry: RangeEntry, plan: Plan) -> str | None:
    """Return a complaint if a range was made for another plan; someone may have copied it here."""
    return None if entry.plan_sha256 == plan.sha256 else f"{entry.path}: made for another plan"
