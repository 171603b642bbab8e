"""What to do about a damaged or incomplete corpus. The tests follow each of these sentences."""

from __future__ import annotations

from cdgen.corpus.folder import CorpusFolder

_AGAIN = "run the same generate command again"


def for_the_dataset(folder: CorpusFolder) -> str:
    """Return what to do if a file of data/ or the manifest is damaged. The ranges are gone then, so
    the whole corpus has to be made again."""
    if is_published(folder):
        return f"Fetch {folder} again from where it was published."
    return (
        f"Delete {folder.manifest_file} and {_AGAIN}, without --shard: it makes the whole corpus"
        " again, with the same bytes."
    )


def is_published(folder: CorpusFolder) -> bool:
    """Return whether this is a copy of a finished corpus, without what its making left."""
    return folder.is_finalized and not folder.state.exists()
