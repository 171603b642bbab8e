"""Each line of a BabyLM file becomes the right choice, and bad lines are named."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdgen.errors import UsageError
from cdgen.eval.tasks.items import Item, choice_task, read_items

BLIMP = {
    "sentence_good": "Cats sleep.",
    "sentence_bad": "Cats sleeps.",
    "UID": "agreement",
    "field": "morphology",
    "linguistics_term": "subject_verb",
}
SUPPLEMENT = {"sentence_good": "A: Who?\nB: I.", "sentence_bad": "A: Who?\nB: Yes."}
EWOK = {
    "Domain": "agent-properties",
    "Context1": "Ann likes it.",
    "Context2": "Ann hates it.",
    "Target1": "Ann smiles.",
    "Target2": "Ann frowns.",
    "ContextType": "direct",
    "ContextDiff": "antonym",
    "TargetDiff": "swap",
}
TRACKING = {"input_prefix": "Box 0 has ", "options": ["a cup.", "a hat.", "nothing."], "numops": 3}
COMPS = {
    "prefix_acceptable": "A cat",
    "prefix_unacceptable": "A big old car",
    "property_phrase": "can purr.",
}
WUG = {"sentences": "a wugable thing: wugability\ta wugable thing: wugableness", "ratio": 0.25}
ROWS: dict[str, dict[str, Any]] = {
    "blimp_filtered": BLIMP,
    "supplement_fast": SUPPLEMENT,
    "ewok_filtered": EWOK,
    "entity_tracking": TRACKING,
    "comps": COMPS,
    "wug_adj_nominalization": WUG,
    "wug_past_tense": WUG,
}


def items_of(folder: Path, name: str) -> list[Item]:
    task = choice_task(name)
    assert task is not None
    return read_items(folder / name, task)


@pytest.fixture
def one_item(tmp_path: Path) -> Callable[..., Item]:
    """Return a function that makes the item of a task from one line."""

    def read(name: str, row: dict[str, Any], stem: str = "some_file") -> Item:
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{stem}.jsonl").write_text(json.dumps(row) + "\n")
        (item,) = items_of(tmp_path, name)
        return item

    return read


def completions(item: Item) -> list[str]:
    return [text[start:] for text, start in zip(item.candidates, item.starts, strict=True)]


# ---- what each reader makes of a line ----------------------------------------------------------


def test_blimp(one_item: Callable[..., Item]) -> None:
    item = one_item("blimp_filtered", BLIMP, "agreement_2")
    assert item.candidates == item.answers == ("Cats sleep.", "Cats sleeps.")
    assert item.starts == (0, 0), "whole sentences"
    assert item.uid == "agreement", "the line's own, not the file's name"
    assert item.labels == {"field": "morphology", "linguistics_term": "subject_verb"}


def test_the_field_that_blimp_spells_in_two_ways(one_item: Callable[..., Item]) -> None:
    item = one_item("blimp_filtered", {**BLIMP, "field": "syntax_semantics"})
    assert item.labels["field"] == "syntax/semantics"


def test_a_supplements_subtask_is_its_file(one_item: Callable[..., Item]) -> None:
    item = one_item("supplement_fast", SUPPLEMENT, "turn_taking")
    assert (item.uid, item.labels) == ("turn_taking", {})
    assert item.candidates == ("A: Who?\nB: I.", "A: Who?\nB: Yes.")


def test_ewok_asks_for_both_targets_behind_the_first_context(
    one_item: Callable[..., Item],
) -> None:
    item = one_item("ewok_filtered", EWOK)
    assert item.candidates == ("Ann likes it. Ann smiles.", "Ann likes it. Ann frowns.")
    assert tuple(completions(item)) == item.answers == (" Ann smiles.", " Ann frowns.")
    assert item.uid == "agent-properties"


def test_entity_tracking(one_item: Callable[..., Item]) -> None:
    item = one_item("entity_tracking", TRACKING, "move_contents")
    assert item.candidates == ("Box 0 has a cup.", "Box 0 has a hat.", "Box 0 has nothing.")
    assert tuple(completions(item)) == item.answers == ("a cup.", "a hat.", "nothing.")
    assert item.uid == "move_contents_3_ops"


@pytest.mark.parametrize(
    ("stem", "uid"),
    [
        ("comps_base", "base"),
        ("comps_wugs", "wugs"),
        ("comps_wugs_dist-before", "wugs_dist_before"),
        ("comps_wugs_dist-in-between", "wugs_dist_in_between"),
        ("of_our_own", "of_our_own"),
    ],
)
def test_comps_asks_for_one_phrase_behind_both_prefixes(
    one_item: Callable[..., Item], stem: str, uid: str
) -> None:
    item = one_item("comps", COMPS, stem)
    assert item.candidates == ("A cat can purr.", "A big old car can purr.")
    assert completions(item) == ["can purr."] * 2
    assert item.uid == uid


@pytest.mark.parametrize(
    ("name", "uid"), [("wug_adj_nominalization", "wug_adj"), ("wug_past_tense", "wug_past")]
)
def test_wug(one_item: Callable[..., Item], name: str, uid: str) -> None:
    item = one_item(name, WUG)
    assert item.candidates == ("a wugable thing: wugability", "a wugable thing: wugableness")
    assert (item.starts, item.human, item.uid) == ((0, 0), 0.25, uid)


def test_tasks_by_their_folders() -> None:
    tasks = {name: choice_task(name) for name in ROWS}
    metrics = {name: task.metric for name, task in tasks.items() if task}
    assert len(metrics) == len(ROWS)
    by_rank = {name for name, metric in metrics.items() if metric == "spearman"}
    assert by_rank == {"wug_adj_nominalization", "wug_past_tense"}
    assert not any(map(choice_task, ("reading", "perplexity", "glue_filtered", "aoa", "", "wug")))


# ---- files -------------------------------------------------------------------------------------


def test_files_come_by_name_and_lines_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "supplement_fast"
    folder.mkdir()
    for stem in ("b", "a", "B", "a_2"):  # not written in the order of their names
        rows = [{"sentence_good": f"{stem}{i}", "sentence_bad": "x"} for i in range(2)]
        (folder / f"{stem}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "README.md").write_text("no item")
    found = [item.candidates[0] for item in items_of(tmp_path, folder.name)]
    assert found == [f"{stem}{i}" for stem in ("B", "a", "a_2", "b") for i in range(2)]


def test_blank_lines_and_line_ends(tmp_path: Path) -> None:
    folder = tmp_path / "supplement_fast"
    folder.mkdir()
    line = json.dumps(SUPPLEMENT)
    (folder / "a.jsonl").write_bytes(f"\n{line}\r\n  \r\n{line}".encode())
    assert len(items_of(tmp_path, folder.name)) == 2


def test_compressed_files_and_byte_order_marks(tmp_path: Path) -> None:
    folder = tmp_path / "supplement_fast"
    folder.mkdir()
    line = json.dumps(SUPPLEMENT).encode()
    (folder / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + line)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(line))
    (folder / "C.JSONL").write_bytes(line)
    assert [item.uid for item in items_of(tmp_path, folder.name)] == ["C", "a", "b"]


def test_a_line_separator_within_a_text_ends_no_line(tmp_path: Path) -> None:
    folder = tmp_path / "supplement_fast"
    folder.mkdir()
    texts = ("a\u2028b\u0085c", "x\u2029y")
    row = dict(zip(("sentence_good", "sentence_bad"), texts, strict=True))
    line = json.dumps(row, ensure_ascii=False) + "\n"
    (folder / "a.jsonl").write_text(line * 2, encoding="utf-8")
    assert [item.candidates for item in items_of(tmp_path, folder.name)] == [texts, texts]


# ---- bad lines ---------------------------------------------------------------------------------


def refusal(tmp_path: Path, name: str, third: bytes) -> str:
    """Return the error for a file whose third line, after a good one and a blank one, is
    `third`."""
    folder = tmp_path / name
    folder.mkdir()
    good = json.dumps(ROWS[name]).encode()
    (folder / "a.jsonl").write_bytes(good + b"\n" + good + b"\n")
    (folder / "b.jsonl").write_bytes(good + b"\n\n" + third + b"\n" + good + b"\n")
    with pytest.raises(UsageError) as refused:
        items_of(tmp_path, name)
    text = str(refused.value)
    assert text.startswith(f"{folder / 'b.jsonl'}, line 3: "), text
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    "line",
    [b"{", b'{"sentence_good": "a"', b"[1, 2]", b'"text"', b"null", b"\xff\xfe", b"\xef\xbb\xbf{}"],
)
def test_a_line_that_is_no_object(tmp_path: Path, line: bytes) -> None:
    refusal(tmp_path, "blimp_filtered", line)


NEEDED = [
    (name, field)
    for name, row in ROWS.items()
    for field in row
    if field not in ("Context2", "ContextType", "ContextDiff", "TargetDiff")
    if (name, field) not in [("blimp_filtered", f) for f in ("field", "linguistics_term")]
]


@pytest.mark.parametrize(("name", "field"), NEEDED)
def test_a_missing_field_is_named(tmp_path: Path, name: str, field: str) -> None:
    row = {key: value for key, value in ROWS[name].items() if key != field}
    assert repr(field) in refusal(tmp_path, name, json.dumps(row).encode())


RIGHT_TYPE = [("numops", 5), ("ratio", 5), ("options", ["x"])]  # another test refuses the last
WRONG_TYPE = [
    (name, field, value)
    for name, field in [
        *NEEDED,
        ("blimp_filtered", "field"),
        ("blimp_filtered", "linguistics_term"),
    ]
    for value in (5, None, ["x"])
    if (field, value) not in RIGHT_TYPE
]


@pytest.mark.parametrize(("name", "field", "value"), WRONG_TYPE)
def test_a_value_of_the_wrong_type(tmp_path: Path, name: str, field: str, value: Any) -> None:
    """It is never converted to text, as Python would: "None" would be scored."""
    refusal(tmp_path, name, json.dumps({**ROWS[name], field: value}).encode())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("entity_tracking", {"options": []}),
        ("entity_tracking", {"options": ["a cup."]}),
        ("entity_tracking", {"options": "a cup."}),  # must not pass for one option per letter
        ("entity_tracking", {"options": ["a cup.", 5]}),
        ("entity_tracking", {"numops": "many"}),
        ("wug_past_tense", {"sentences": "no tab"}),
        ("wug_past_tense", {"sentences": "a\tb\tc"}),
        ("wug_past_tense", {"ratio": "half"}),
        ("wug_past_tense", {"ratio": float("nan")}),
        ("blimp_filtered", {"sentence_good": "half a pair: \ud800"}),  # no tokenizer accepts it
    ],
)
def test_a_value_that_makes_no_item(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    refusal(tmp_path, name, json.dumps({**ROWS[name], **change}).encode())


def test_a_folder_without_items(tmp_path: Path) -> None:
    folder = tmp_path / "blimp_filtered"
    folder.mkdir()
    for content in (None, "", "\n\n"):
        if content is not None:
            (folder / "a.jsonl").write_text(content)
        with pytest.raises(UsageError, match=str(folder)):
            items_of(tmp_path, folder.name)
    (folder / "a.jsonl").unlink()
    (folder / "a.jsonl").mkdir()
    with pytest.raises(UsageError, match=r"a\.jsonl"):
        items_of(tmp_path, folder.name)


# ---- the real data -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "items", "uids"),
    [
        ("blimp_filtered", 59_875, 67),
        ("supplement_filtered", 5_218, 5),
        ("wug_adj_nominalization", 200, 1),
    ],
)
def test_the_real_files(unpacked: Callable[[str], Path], name: str, items: int, uids: int) -> None:
    found = items_of(unpacked("babylm2025_full"), name)
    assert (len(found), len({item.uid for item in found})) == (items, uids)
    if name == "blimp_filtered":
        fields = {"morphology", "semantics", "syntax", "syntax/semantics"}
        assert {item.labels["field"] for item in found} == fields
    elif name.startswith("wug"):
        assert all(0 <= item.human <= 1 for item in found)
    else:  # the counts that the pipeline checks (collate_preds.py)
        assert Counter(item.uid for item in found) == {
            "hypernym": 842,
            "qa_congruence_easy": 64,
            "qa_congruence_tricky": 165,
            "subject_aux_inversion": 3867,
            "turn_taking": 280,
        }


def test_the_real_entity_tracking(unpacked: Callable[[str], Path]) -> None:
    found = items_of(unpacked("entity_tracking"), "entity_tracking")
    counts = Counter(item.uid for item in found)
    assert (len(found), len(counts)) == (9_483, 18)
    assert counts["regular_5_ops"] == 159 and counts["ambiref_4_ops"] == 615
    assert counts["move_contents_0_ops"] == 605  # the pipeline checks these three counts
    assert all(len(set(item.candidates)) == len(item.candidates) for item in found)
