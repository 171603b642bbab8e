"""What to do about a damaged or incomplete corpus. The tests follow each of these sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.shard import Shard

_MOST_LISTED = 8
_AGAIN = "run the same generate command again"
_RUN_AGAIN = _AGAIN.capitalize()


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with a corpus, and what to do about it."""

    text: str
    advice: str = ""  # "" if the text says it


def on_problems(folder: CorpusFolder, problems: Sequence[Problem]) -> list[str]:
    """Return what to do, each once; not what making the corpus again does as well."""
    found = dict.fromkeys(problem.advice for problem in problems if problem.advice)
    if on_dataset(folder) in found and not is_published(folder):
        for spared in (on_card(folder), on_prompt_origins(folder)):
            found.pop(spared, None)
    return list(found)


def on_dataset(folder: CorpusFolder) -> str:
    """Return what to do if a file of data/ or the manifest is damaged. The ranges are gone then, so
    the whole corpus has to be made again."""
    if is_published(folder):
        return _fetch(folder)
    return (
        f"Delete {folder.manifest_file} and {_AGAIN}, without --shard: it makes the whole corpus"
        " again, with the same bytes."
    )


def on_card(folder: CorpusFolder) -> str:
    """Return what to do about a dataset card that is not as it was written."""
    make = f"run cdgen finalize {folder}: it writes README.md again."
    if is_published(folder):
        make = f"fetch {folder.card} again from where the corpus was published."
    if not folder.card.exists():
        return make[0].upper() + make[1:]
    delete = "" if is_published(folder) else f"delete {folder.card} and "
    return f"If you edited README.md, nothing is damaged; if not, {delete}{make}"


def on_prompt_origins(folder: CorpusFolder) -> str:
    if is_published(folder):
        return _fetch(folder)
    exists = folder.prompt_origins.exists()
    again = f"Delete {folder.prompt_origins} and {_AGAIN}" if exists else _RUN_AGAIN
    return f"{again}, without --shard: it writes only this file again."


def on_plan(folder: CorpusFolder) -> str:
    again = "it writes the plan again and keeps the ranges"
    return _delete(folder, folder.plan_file, "the manifest holds the plan as well", again)


def on_names(folder: CorpusFolder) -> str:
    spare = "the manifest holds the names as well"
    return _delete(folder, folder.names_file, spare, "it writes the names again")


def on_prompts(folder: CorpusFolder) -> str:
    what, spare = f"the folder {folder.prompts}", "a finished corpus does not need it"
    return _delete(folder, what, spare, "it makes the prompts again")


def _delete(folder: CorpusFolder, what: object, spare: str, again: str) -> str:
    """Return the advice to delete what a finished corpus can spare, and another one makes again."""
    if folder.is_finalized:
        return f"Delete {what}: {spare}."
    return f"Delete {what} and {_AGAIN}: {again}."


def on_ranges(folder: CorpusFolder) -> str:
    return (
        f"Delete the damaged files in {folder.ranges} and {_AGAIN}, without --shard: it makes only"
        " these ranges again."
    )


def on_missing(folder: CorpusFolder, missing: Sequence[int], busy: Sequence[Shard] = ()) -> str:
    """Return what to do about the ranges `missing`, while processes work on the shards `busy`."""
    left = [index for index in missing if not any(shard.owns(index) for shard in busy)]
    sentences = []
    if busy:
        one = len(busy) == 1
        who = "process that still works on shard" if one else "processes that still work on shards"
        sentences.append(f"Wait for the {who} {_listed(busy)}.")
    if left:
        sentences.append(_on_idle(left, folder.begun_shards()))
    return " ".join(sentences)


def _on_idle(missing: Sequence[int], begun: Sequence[Shard]) -> str:
    """Return how to make ranges on which nobody works, if these shards were begun."""
    counts = {shard.count for shard in begun}
    if counts == {1}:
        return f"{_RUN_AGAIN}."
    if len(counts) != 1:  # several divisions, or none is known
        return f"{_RUN_AGAIN}, without --shard for all that is missing."
    (count,) = counts
    shards = [Shard(index, count) for index in sorted({index % count for index in missing})]
    flag, owners = ("--shard", "it") if len(shards) == 1 else ("each of --shard", "them")
    return (
        f"{_RUN_AGAIN} without --shard, or with {flag} {_listed(shards)}: what is missing belongs"
        f" to {owners}."
    )


def _listed(shards: Sequence[Shard]) -> str:
    names = ", ".join(map(str, shards[:_MOST_LISTED]))
    more = len(shards) - _MOST_LISTED
    return names if more <= 0 else f"{names} and {more} more"


def is_published(folder: CorpusFolder) -> bool:
    """Return whether this is a copy of a finished corpus, without what its making left."""
    return folder.is_finalized and not folder.state.exists()


def _fetch(folder: CorpusFolder) -> str:
    return f"Fetch {folder} again from where it was published."
