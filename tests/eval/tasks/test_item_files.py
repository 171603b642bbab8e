"""Minimal pairs in any language: files by language, tables as they are released, and bad rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cdgen.errors import UsageError
from cdgen.eval.tasks.items import Item, choice_task, read_items

HEADER = "idx\tsen\twrong_sen\tphenomenon\tverb"
# Right and wrong sentences of our own, in scripts with and without spaces, cases and directions.
PAIRS = {
    "eus": ("Neskak liburua irakurri du.", "Neskak liburua irakurri dute."),
    "ell": ("Το παιδί τρέχει.", "Το παιδί τρέχουν."),
    "heb": ("הילדה רצה הביתה.", "הילדה רץ הביתה."),
    "hin": ("लड़की घर जाती है।", "लड़की घर जाता है।"),
    "jpn": ("猫が魚を食べた。", "猫が魚が食べた。"),
    "kat": ("ბავშვი თამაშობს.", "ბავშვი თამაშობენ."),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "multiblimp"
    made.mkdir()
    return made


def items_of(folder: Path, kind: str = "multiblimp") -> list[Item]:
    task = choice_task(kind)
    assert task is not None
    return read_items(folder, task)


def table(*rows: str) -> str:
    return "\n".join((HEADER, *rows)) + "\n"


def row(language: str, phenomenon: str = "SV-#") -> str:
    return "\t".join(["0", *PAIRS[language], phenomenon, "x"])


def test_a_table_for_each_language(folder: Path) -> None:
    for language in PAIRS:
        (folder / f"{language}.tsv").write_text(table(row(language)), encoding="utf-8")
    found = items_of(folder)
    assert [item.candidates for item in found] == [PAIRS[language] for language in sorted(PAIRS)]
    assert [item.uid for item in found] == [f"{language}/SV-#" for language in sorted(PAIRS)]
    assert found[0].labels == {"language": "ell", "phenomenon": "SV-#"}
    assert {item.starts for item in found} == {(0, 0)}, "whole sentences"


def test_the_ways_to_lay_out_languages(folder: Path) -> None:
    """A folder per language as released, a compressed table, and JSON Lines under both names."""
    (folder / "eus").mkdir()
    (folder / "eus/data.tsv").write_text(table(row("eus")), encoding="utf-8")
    (folder / "ell.tsv.gz").write_bytes(gzip.compress(table(row("ell")).encode()))
    names = {"heb": ("sen", "wrong_sen"), "hin": ("sentence_good", "sentence_bad")}
    for language, keys in names.items():
        line = json.dumps({**dict(zip(keys, PAIRS[language], strict=True)), "UID": "agreement"})
        (folder / f"{language}.jsonl").write_text(line + "\n")
    (folder / "README.md").write_text("no item")
    (folder / ".cache").mkdir()
    (folder / ".cache/data.tsv").write_text("no item")
    found = {item.uid: item.candidates for item in items_of(folder)}
    assert found == {
        "ell/SV-#": PAIRS["ell"],
        "eus/SV-#": PAIRS["eus"],
        "heb/agreement": PAIRS["heb"],
        "hin/agreement": PAIRS["hin"],
    }


def test_without_phenomena_a_language_is_one_subtask(folder: Path) -> None:
    (folder / "kat.tsv").write_text("sen\twrong_sen\n" + "\t".join(PAIRS["kat"]), encoding="utf-8")
    (item,) = items_of(folder)
    assert (item.uid, item.labels) == ("kat", {"language": "kat"})


def test_a_byte_order_mark_and_windows_line_ends(folder: Path) -> None:
    text = "\ufeff" + table(row("jpn"), "", row("jpn")).replace("\n", "\r\n")
    (folder / "jpn.tsv").write_bytes(text.encode())
    assert [item.candidates for item in items_of(folder)] == [PAIRS["jpn"]] * 2


def test_cells_in_quotes(folder: Path) -> None:
    """A sentence with a quotation mark is quoted, as pandas does it; an apostrophe is not."""
    cells = ['"She said ""go""."', "She said 'go."]
    (folder / "eng.tsv").write_text("sen\twrong_sen\n" + "\t".join(cells) + "\n")
    assert items_of(folder)[0].candidates == ('She said "go".', "She said 'go.")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("idx\tsen\tverb\n0\tIt is.\tis\n", "line 2: no field 'wrong_sen'"),
        ("idx\ttext\n0\tIt is.\n", "line 2: no field 'sen'"),
        (table(row("ell"), "1\tΜία.\tΜίες."), "line 3: expected 5 cells, as in the header, got 3"),
        (table(row("ell"), row("ell") + "\tmore"), "line 3: expected 5 cells"),
        (table(row("ell"), "1\t \tΜίες.\tSV-#\tx"), "line 3: sen: expected text"),
        (table(row("ell"), "1\tΜία.\tΜίες.\t\tx"), "line 3: phenomenon: expected text"),
        (table('1\t"Μία.\tΜίες.\tSV-#\tx', row("ell")), "line 2: unexpected end"),
        (table('1\t"Μία.\tΜίες.\tSV-#\tx', '"'), "line 2: the quotation mark that opens"),
        (table('1\t"Μία.\tΜίες.\tSV-#\tx').strip(), "line 2: unexpected end"),
        (table(), "found none"),
        ("", "found none"),
        ("\n\n", "found none"),
    ],
)
def test_bad_tables(folder: Path, content: str, says: str) -> None:
    (folder / "ell.tsv").write_text(content, encoding="utf-8")
    (folder / "kat.tsv").write_text(table(row("kat")), encoding="utf-8")
    with pytest.raises(UsageError) as refused:
        items_of(folder)
    assert str(folder / "ell.tsv") in str(refused.value) and says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_other_encodings(folder: Path) -> None:
    (folder / "ell.tsv").write_bytes(table(row("ell")).encode("iso8859-7"))
    with pytest.raises(UsageError, match=r"ell\.tsv, line 2: not UTF-8 at byte"):
        items_of(folder)
    (folder / "ell.tsv").write_bytes(table(row("ell")).encode("utf-16"))
    with pytest.raises(UsageError, match=r"ell\.tsv, line 1: not UTF-8 at byte"):
        items_of(folder)


def test_an_empty_folder(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"LANGUAGE\.tsv or LANGUAGE/data\.tsv files, found none"):
        items_of(folder)


@pytest.mark.parametrize("name", ["blimp_fast", "multiblimp"])
def test_pairs_of_equal_sentences_are_named(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], write_jsonl: Callable[..., None]
) -> None:
    """The official BLiMP has some, so they are no error."""
    good, bad = PAIRS["heb"]
    pairs = [(good, bad), (good, good), (bad, bad)]
    rows = [{"sentence_good": one, "sentence_bad": other} for one, other in pairs]
    write_jsonl(tmp_path / name / "heb.jsonl", rows)
    assert len(items_of(tmp_path / name, name)) == 3
    assert capsys.readouterr().err == (
        f"{name}: in 2 of 3 items all candidates are the same text, so they can only tie; the"
        f" first: {tmp_path / name / 'heb.jsonl'}, line 2\n"
    )


def test_an_empty_file_among_others_is_a_missing_subtask(
    tmp_path: Path, write_jsonl: Callable[..., None]
) -> None:
    for stem, rows in (("a", [{"sentence_good": "x", "sentence_bad": "y"}]), ("b", [])):
        write_jsonl(tmp_path / f"blimp/{stem}.jsonl", rows)
    with pytest.raises(UsageError, match=r"b\.jsonl: expected one item per line, found none"):
        items_of(tmp_path / "blimp", "blimp")
