"""Where a checkpoint comes from, as far as its folder tells: for people, beside its hash."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cdgen.checkpoints.checkpoint import Checkpoint

_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")  # ORG/NAME; a path on someone's disk is not shown
_COMMIT = re.compile(r"[\w.-]{1,100}")
_CACHED = "models--"  # the hub's cache calls the folder of ORG/NAME models--ORG--NAME
_DOWNLOADED = ".cache/huggingface/download/config.json.metadata"  # left by hf download --local-dir


@dataclass(frozen=True)
class Origin:
    """The name of a model, and of what its config.json says that it was loaded from."""

    name: str  # on the hub if it is known, or else the folder's
    revision: str | None  # commit on the hub
    config_name: str | None  # `_name_or_path`, which in a fine-tuned model often names its base


def origin_of(model: Checkpoint) -> Origin:
    folder = model.folder.resolve()
    written = model.config.get("_name_or_path")
    known = isinstance(written, str) and _HUB_NAME.fullmatch(written)
    config_name = written if known else None
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith(_CACHED):
        name = repository.removeprefix(_CACHED).replace("--", "/", 1)
        return Origin(name, folder.name, config_name)
    metadata = folder / _DOWNLOADED
    lines = metadata.read_text(errors="replace").splitlines() if metadata.is_file() else []
    commit = lines[0] if lines and _COMMIT.fullmatch(lines[0]) else None
    return Origin(folder.name or str(folder), commit, config_name)
