"""What `verify` says is to be done: followed to the letter, each sentence gives the corpus back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_corpus import WHOLE, begin, fill, make_rows

from cdgen.corpus.advice import on_problems
from cdgen.corpus.finalize import finalize
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.model_names import ModelName, ModelNames
from cdgen.corpus.ranges import commit_range, pending_ranges
from cdgen.corpus.shard import Shard
from cdgen.corpus.status import beat
from cdgen.corpus.verify import find_problems, verify
from cdgen.errors import PlanMismatch, StorageError, UsageError

NAMES = ModelNames(good=ModelName(name="org/good"))
Damage = Callable[[Path], None]


def generate(out: Path, format: str) -> CorpusFolder:
    folder = begin(out, NAMES, format=format)
    fill(folder)
    return folder


def published(out: Path) -> dict[str, bytes]:
    """Return every file of the finished corpus, without the state of its making."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    names = {path: str(path.relative_to(out)) for path in files}
    return {name: path.read_bytes() for path, name in names.items() if name[0] != "."}


def advice(out: Path) -> list[str]:
    return on_problems(CorpusFolder(out), find_problems(out))


def follow(out: Path, format: str, finishes: bool = True) -> None:
    """Do what each sentence says; the command finishes the corpus unless it writes one shard."""
    problems, sentences = verify(out), advice(out)
    assert 1 <= len(sentences) <= 2
    for sentence in sentences:
        if "damaged files in" in sentence:
            for name in re.findall(r"range-\d+\.\w+", " ".join(problems)):
                (out / ".cdgen/ranges" / name).unlink()
        elif named := re.search(r"[Dd]elete (?:the folder )?([^ ,:]*[^ ,:.])", sentence):
            path = Path(named[1])
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        if "same generate command again" in sentence:
            generate(out, format)
            if finishes:
                finalize(out)
        elif f"un cdgen finalize {out}:" in sentence:
            finalize(out)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lose(path: Path) -> None:
    path.unlink()


@pytest.fixture
def before(out: Path, format: str) -> dict[str, bytes]:
    """Return the files of a corpus that is finished now."""
    generate(out, format)
    finalize(out)
    return published(out)


FINISHED = [
    "data/train-00001-of-00003.FORMAT",
    "README.md",
    "prompts.jsonl",
    "manifest.json",
    ".cdgen/plan.json",
    ".cdgen/models.json",
    ".cdgen/prompts/tokens.bin",
    ".cdgen/prompts/origins.jsonl",
    ".cdgen/prompts/prompts.json",
]


@pytest.mark.parametrize("damage", [flip, cut, lose])
@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_corpus_is_repaired(
    out: Path, format: str, before: dict[str, bytes], name: str, damage: Damage
) -> None:
    damage(out / name.replace("FORMAT", format))
    if damage is lose and name in ("manifest.json", ".cdgen/plan.json", ".cdgen/models.json"):
        return  # then it is not finished, or lacks nothing
    assert verify(out)
    follow(out, format)
    assert verify(out) == []
    assert published(out) == before


def test_a_damaged_file_of_rows_is_all_that_has_to_be_said(
    out: Path, format: str, before: dict[str, bytes]
) -> None:
    for name in (f"data/train-00000-of-00003.{format}", "README.md", "prompts.jsonl"):
        flip(out / name)
    (sentence,) = advice(out)
    assert sentence == (
        f"Delete {out}/manifest.json and run the same generate command again, without --shard: it"
        " makes the whole corpus again, with the same bytes."
    )
    follow(out, format)
    assert published(out) == before


UNFINISHED = [
    "plan.json",
    "models.json",
    "prompts/tokens.bin",
    "prompts/prompts.json",
    "ranges/range-0000001.FORMAT",
    "ranges/range-0000003.json",
]


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("name", UNFINISHED)
def test_an_unfinished_corpus_is_repaired_and_keeps_its_ranges(
    out: Path, format: str, before: dict[str, bytes], name: str, damage: Damage
) -> None:
    shutil.rmtree(out)
    folder = generate(out, format)
    kept = folder.range_path(2).stat().st_ino
    damage(folder.state / name.replace("FORMAT", format))
    follow(out, format, finishes=False)
    assert verify(out) == []
    assert folder.range_path(2).stat().st_ino == kept
    finalize(out)
    assert published(out) == before


def test_a_damaged_heartbeat_is_deleted(out: Path, format: str) -> None:
    folder = generate(out, format)
    beat(folder, WHOLE, 4, new_tokens=1, tokens_per_second=1.0)
    flip(folder.heartbeat_path(WHOLE))
    follow(out, format)
    assert verify(out) == []


def test_missing_ranges_are_made_by_the_same_command(
    out: Path, format: str, before: dict[str, bytes]
) -> None:
    shutil.rmtree(out)
    with begin(out, NAMES, format=format).hold_shard(WHOLE):
        pass
    assert advice(out) == ["Run the same generate command again."]
    follow(out, format)
    assert published(out) == before


def advice_if_published(out: Path) -> list[str]:
    shutil.rmtree(out / ".cdgen")
    return advice(out)


@pytest.mark.parametrize("name", ["data/train-00001-of-00003.jsonl", "manifest.json"])
def test_a_published_copy_is_fetched_again(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    generate(out, "jsonl")
    finalize(out)
    flip(out / name)
    assert advice_if_published(out) == [f"Fetch {out} again from where it was published."]


def test_the_card_of_a_published_copy_may_have_been_edited(out: Path) -> None:
    generate(out, "jsonl")
    finalize(out)
    (out / "README.md").write_text("Licence: CC0\n")
    assert advice_if_published(out) == [
        "If you edited README.md, nothing is damaged; if not,"
        f" fetch {out}/README.md again from where the corpus was published."
    ]


def test_ranges_outlive_a_set_up_that_fails(out: Path) -> None:
    """A mistake in the command that writes a deleted plan again must not cost the ranges."""
    folder = generate(out, "jsonl")
    folder.plan_file.unlink()
    with pytest.raises(UsageError), CorpusFolder(out).set_up():
        raise UsageError("no prompts")
    with pytest.raises(PlanMismatch, match=r"has no plan\.json, but ranges made from another plan"):
        begin(out, NAMES, format="jsonl", seed=1)
    assert not folder.plan_file.exists()
    generate(out, "jsonl")
    assert verify(out) == []


# ---- missing ranges of shards ------------------------------------------------------------------


def fill_shard(folder: CorpusFolder, shard: str, most: int = 9) -> None:
    """Commit the missing ranges of a shard, at most so many."""
    own = Shard.parse(shard)
    with folder.hold_shard(own):
        for index in pending_ranges(folder, own)[:most]:
            commit_range(folder, index, make_rows(folder.plan, index))


def said_by_finalize(out: Path) -> str:
    with pytest.raises(StorageError) as refused:
        finalize(out)
    text = str(refused.value)
    return text[text.index("the first is range") :]


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (["0/1"], "0. Run the same generate command again."),
        (
            [],
            "0. Run the same generate command again, without --shard for all that is missing.",
        ),
        (
            ["0/3", "1/2"],
            "2. Run the same generate command again, without --shard for all that is missing.",
        ),
        (
            ["0/2"],
            "1. Run the same generate command again without --shard, or with --shard 1/2: what is"
            " missing belongs to it.",
        ),
        (
            ["1/3"],
            "0. Run the same generate command again without --shard, or with each of --shard 0/3,"
            " 2/3: what is missing belongs to them.",
        ),
    ],
)
def test_finalize_says_whose_ranges_are_missing(out: Path, written: list[str], says: str) -> None:
    folder = begin(out)
    for shard in written:
        fill_shard(folder, shard, most=0 if shard == "0/1" else 9)
    assert said_by_finalize(out) == f"the first is range {says}"
    assert says.endswith(advice(out)[0])


def test_finalize_says_who_is_still_at_work(out: Path) -> None:
    folder = begin(out)
    fill_shard(folder, "0/3")
    with folder.hold_shard(Shard(2, 3)):
        assert said_by_finalize(out) == (
            "the first is range 1. Wait for the process that still works on shard 2/3. Run the same"
            " generate command again without --shard, or with --shard 1/3: what is missing belongs"
            " to it."
        )
        fill_shard(folder, "1/3")
        expected = "the first is range 2. Wait for the process that still works on shard 2/3."
        assert said_by_finalize(out) == expected
    fill_shard(folder, "2/3")
    finalize(out)


def test_many_shards_are_not_all_listed(out: Path) -> None:
    folder = begin(out, range_size=1)
    fill_shard(folder, "0/40")
    assert "--shard 1/40, 2/40, 3/40, 4/40, 5/40, 6/40, 7/40, 8/40 and 31 more:" in advice(out)[0]


def test_a_damaged_range_belongs_to_a_shard_as_well(out: Path) -> None:
    folder = begin(out)
    for shard in ("0/2", "1/2"):
        fill_shard(folder, shard)
    flip(folder.range_path(3))
    with pytest.raises(StorageError, match=r"Delete (\S+)\. Run .* with --shard 1/2: what is mis"):
        finalize(out)
    folder.range_path(3).unlink()
    fill_shard(folder, "1/2")
    finalize(out)
