"""Datasets of the `datasets` library: those that have a name on the Hub, and saved ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from cdgen.corpus.source_files import shortened
from cdgen.corpus.text_files import kind_of
from cdgen.errors import UsageError
from cdgen.packages import require_package

if TYPE_CHECKING:
    from datasets import Dataset

# What `save_to_disk` leaves in a folder: of a dataset, or of several splits.
_SAVED = (("dataset_info.json", "state.json"), ("dataset_dict.json",))


def is_saved(folder: Path) -> bool:
    return any(all((folder / name).is_file() for name in names) for names in _SAVED)


def may_be_dataset(name: str) -> bool:
    """Return whether `name` could be a dataset (NAME or OWNER/NAME), not a missing file."""
    return kind_of(name) is None and bool(re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name))


def named_dataset(name: str) -> Dataset:
    """Load the split `train` of a dataset of the Hub. Raises UsageError."""
    require_package("datasets", f", or give a file: {name} is none here")
    import datasets
    from huggingface_hub.utils import disable_progress_bars

    # A bar goes back to the beginning of its line, and no text may do that (shown_text.py).
    disable_progress_bars()
    datasets.utils.disable_progress_bars()
    try:
        return datasets.load_dataset(name, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UsageError(
            f"{name}: no such file or folder here, and `datasets` cannot load a dataset "
            f"of that name: {str(error).splitlines()[0]}"
        ) from error


def saved_dataset(folder: Path, label: str) -> tuple[str, Dataset, list[str]]:
    """Return what `save_to_disk` wrote, a dataset or the split `train` of several, under its name;
    and what is to be said about it. Raises UsageError."""
    require_package("datasets", f" to read {folder}")
    import datasets

    datasets.utils.disable_progress_bars()  # for the same reason
    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise UsageError(f"{label}: `datasets` cannot load it: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        return folder.name, found, []
    splits = list(found)
    wanted = "train" if "train" in splits or len(splits) != 1 else splits[0]
    if wanted not in splits:
        raise UsageError(f"{label}: no split `train`, only {splits}; give the folder of one split.")
    left = [name for name in splits if name != wanted]
    notes = [f"split {wanted} is read, not {shortened(left)}"] if left else []
    return wanted, found[wanted], notes
