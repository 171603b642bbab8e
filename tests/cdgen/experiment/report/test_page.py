"""The page of made-up experiments: what it shows, and that everything in it is text."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from chromium import serious_findings
from made_up_experiment import ARMS, MadeUp

from cdgen.errors import StorageError
from cdgen.experiment.layout import Student, students_of
from cdgen.experiment.report.page import write_page
from cdgen.shown_text import shown

Begin = Callable[..., MadeUp]
HOSTILE = "<script>alert('&')</script> <b>| `` ``` \u202e\u05d0 \x1b[31m </td>"
ALONE = {"meta", "link", "br", "hr", "img", "input"}  # elements without an end


class Reader(HTMLParser):
    """Collects the elements of a page and its text; fails on elements that do not nest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ALONE:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())  # non-breaking spaces too


def test_the_page_is_the_last_file(whole: MadeUp, written: list[str]) -> None:
    """`cdgen run` takes it as a sign that all others are there."""
    write_page(whole.out)
    assert {"report.md", "results.json"} < {*written}
    assert written[-1] == "report.html"


def test_a_finished_experiment(whole: MadeUp) -> None:
    page = write_page(whole.out)
    assert page.warnings == []
    found = Reader(whole.out / "report.html")
    for section in page.sections:
        assert f'id="{section.id}"' in (whole.out / "report.html").read_text()
    for wanted in ("cd at 30 %", "distinct-2", "0.500", "20.50 (18.00 to 23.00)", "Hashes"):
        assert wanted in found.text, wanted
    files = {path.name for path in (whole.out / "figures").iterdir()}
    assert files == {"change-by-ratio.svg", "change-by-truncation.svg"}
    for path in (whole.out / "figures").iterdir():
        ElementTree.parse(path)
    numbers = json.loads((whole.out / "results.json").read_text())
    assert numbers["answer"] == " ".join(page.answer)
    assert set(numbers["against_vanilla"]) == {"0.3", "0.5"}
    assert set(numbers["corpora"]) == set(ARMS)


def test_the_page_needs_nothing_but_itself(whole: MadeUp) -> None:
    """No script, no network: whatever a browser would load is inside."""
    write_page(whole.out)
    found = Reader(whole.out / "report.html")
    assert not {"script", "link", "iframe", "img", "object", "embed"} & set(found.tags)
    loaded = [v for k, v in found.attributes if k in ("src", "href", "xlink:href") and v]
    assert loaded and all(value.startswith("#") for value in loaded)
    text = (whole.out / "report.html").read_text()
    assert "url(http" not in text and "@import" not in text


def test_the_same_folder_gives_the_same_page(whole: MadeUp) -> None:
    files = ("report.html", "report.md", "results.json", "figures/change-by-ratio.svg")
    write_page(whole.out)
    before = [(whole.out / name).read_bytes() for name in files]
    write_page(whole.out)
    assert [(whole.out / name).read_bytes() for name in files] == before


def test_a_table_names_its_rows_and_columns(whole: MadeUp) -> None:
    """A screen reader says to what a number belongs; a keyboard reaches what has to be scrolled."""
    write_page(whole.out)
    found = Reader(whole.out / "report.html")
    assert found.tags.count("caption") == found.tags.count("table")
    assert found.attributes.count(("scope", "row")) > found.tags.count("table")
    regions = found.attributes.count(("role", "region"))
    assert regions == found.tags.count("table")
    assert found.attributes.count(("tabindex", "0")) >= regions
    assert ("lang", "en") in found.attributes
    levels = [int(tag[1]) for tag in found.tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels)), "no level is skipped"


@pytest.mark.thorough
def test_axe_finds_nothing_serious(whole: MadeUp, chromium: Any) -> None:
    write_page(whole.out)
    context = chromium.new_context(color_scheme="dark")  # the page of a corpus tries light too
    page = context.new_page()
    page.goto((whole.out / "report.html").as_uri())
    assert serious_findings(page) == []
    context.close()


def test_a_star_allows_for_all_tasks_and_methods(whole: MadeUp) -> None:
    """Only cd differs, and clearly; the others vary as seeds do."""
    sections = write_page(whole.out).sections
    short, long, _ = next(s for s in sections if s.id == "tasks").tables
    stars = {row[0]: row[1].endswith("*)") for row in short.rows}
    assert {name for name, star in stars.items() if star} == {"cd at 30 %", "cd at 50 %"}
    p = [(float(row[3].strip("< ")), float(row[4].strip("< "))) for row in long.rows if row[3]]
    assert len(p) == 2 * 10, "tasks x methods"
    assert min(adjusted for _, adjusted in p) >= min(20 * min(own for own, _ in p), 1)


def test_subtasks_of_every_method(begun: Begin) -> None:
    """The mean over seeds, and how far they lie apart; a method without students has no column."""
    made = begun()
    made.score_all({"baseline": 0.5, "cd": 0.5})
    (table,) = next(s for s in write_page(made.out).sections if s.id == "tasks").tables[2:]
    assert table.head == ["sub-task", "baseline", "cd at 30 %"]
    assert [row[0] for row in table.rows] == [f"blimp_fast, u{part}" for part in range(4)]
    values = []
    for seed in (1, 2, 3):
        folder = made.layout.scores(Student("cd", 0.3, seed))
        results = json.loads((folder / "results.json").read_text())["results"]
        values.append(100 * results["blimp_fast_u0"]["acc,none"])
    assert table.rows[0][2] == f"{sum(values) / 3:.1f} ({min(values):.1f} to {max(values):.1f})"


def test_text_of_a_corpus_is_shown_as_text(begun: Begin) -> None:
    made = begun()
    made.corpus("cd", HOSTILE)
    write_page(made.out)
    found = Reader(made.out / "report.html")
    assert "script" not in found.tags and "b" not in found.tags
    assert any(shown(HOSTILE) in words for words in found.words)
    lines = (made.out / "report.md").read_text().split("\n")
    at = lines.index(shown(HOSTILE))
    assert lines[at - 1] == lines[at + 1] == "````", "a fence that the text cannot end"


def test_names_from_data_are_shown_as_text(begun: Begin) -> None:
    """The name of a recipe may hold anything, and so may an error message."""
    made = begun(name="<script>a|b_c</script>[x](javascript:x)")
    made.score_all({"baseline": 0.5})
    (made.layout.scores(Student("baseline", 0.0, 1)) / "results.json").write_text("<i>{")
    write_page(made.out)
    found = Reader(made.out / "report.html")
    assert "script" not in found.tags and "i" not in found.tags
    assert "<script>a|b_c</script>[x]" in found.text
    title = "# &lt;script>a\\|b\\_c&lt;/script>\\[x\\](javascript:x)\n"
    assert title in (made.out / "report.md").read_text()


# ---- experiments that are not finished ----------------------------------------------------------


def test_an_experiment_that_has_only_begun(begun: Begin) -> None:
    made = begun()
    page = write_page(made.out)
    assert page.answer[0].startswith("Nothing can be said yet: no student of the baseline")
    assert page.sections == []
    assert sum(warning.endswith("not finished.") for warning in page.warnings) == 2 + 9
    Reader(made.out / "report.html")


def test_missing_students_are_named(begun: Begin) -> None:
    made = begun()
    made.score_all({"baseline": 0.5, "cd": 0.5})
    for path in made.layout.scores(Student("cd", 0.3, 2)).rglob("*"):
        path.unlink() if path.is_file() else None
    made.stage("student-cd-0.3-seed2", "failed")
    page = write_page(made.out)
    assert "cd-0.3-seed2: its stage failed." in page.warnings
    assert "vanilla-0.3-seed1: not finished." in page.warnings
    answer = " ".join(page.answer)
    assert "No student of vanilla at 30 % has scores yet" in answer
    (table,) = next(s for s in page.sections if s.id == "change").tables
    assert [row[:2] for row in table.rows] == [["cd at 30 %", "2"]]


def test_a_student_with_broken_weights_is_missing(begun: Begin) -> None:
    made = begun()
    made.score_all({"baseline": 0.5, "cd": 0.5})
    path = made.layout.scores(Student("cd", 0.3, 2)) / "results.json"
    document = json.loads(path.read_text())
    document["config"]["invalid"] = "its logits are NaN"
    path.write_text(json.dumps(document))
    assert "cd-0.3-seed2: its logits are NaN." in write_page(made.out).warnings


def test_scores_that_cannot_be_compared(begun: Begin) -> None:
    """Two students were scored on other data: the page says so, and shows the rest."""
    made = begun()
    made.score_all({"baseline": 0.5, "cd": 0.5})
    path = made.layout.scores(Student("cd", 0.3, 2)) / "results.json"
    document = json.loads(path.read_text())
    document["configs"]["blimp_fast"]["data_sha256"] = "other"
    path.write_text(json.dumps(document))
    made.corpus("cd")
    page = write_page(made.out)
    assert "used different data" in page.answer[0]
    assert [section.id for section in page.sections][:2] == ["corpora", "samples"]


def test_a_corpus_read_too_often_is_warned_of(begun: Begin) -> None:
    made = begun(mixture={"ratios": [0.3, 0.5]})
    made.corpus("cd")
    for student in students_of(made.recipe):
        if student.arm == "cd":
            made.mixture(student, 3.9 if student.ratio == 0.3 else 4.1)
    page = write_page(made.out)
    (warning,) = [w for w in page.warnings if "times over" in w]
    assert warning.startswith("The corpus of cd was read 4.1 times over at 50 %")
    (table,) = next(s for s in page.sections if s.id == "corpora").tables
    assert ["read by students, times over", "3.90 at 30 %, 4.10 at 50 %"] in table.rows


def test_measures_of_a_corpus(begun: Begin) -> None:
    """Another model's perplexity is not shown as GOOD's, and a measure that nobody made is left
    out."""
    made = begun()
    for arm in ("vanilla", "cd"):
        made.corpus(arm)
    path = made.layout.measure("cd")
    measures = json.loads(path.read_text())
    measures["judge"]["model_sha256"] = "another"
    del measures["plausible_sets"]
    path.write_text(json.dumps(measures))
    (table,) = next(s for s in write_page(made.out).sections if s.id == "corpora").tables
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.head == ["", "vanilla", "cd"]
    assert rows["word perplexity under GOOD"] == ["20.50 (18.00 to 23.00)", "-"]
    assert rows["draws at which truncation removed a token"] == ["12.50 %", "-"]
    assert rows["distinct-2"] == ["0.500", "0.500"]
    assert rows["new tokens per second"] == ["12", "12"], "120 tokens in 10 seconds"
    assert "novel 7-grams" not in rows and "read by students, times over" not in rows


def test_a_damaged_corpus_is_an_error(begun: Begin) -> None:
    made = begun()
    made.corpus("cd")
    (path,) = (made.layout.corpus("cd") / "data").glob("*-00000-*")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StorageError, match="Restore the file"):
        write_page(made.out)


def test_the_command(begun: Begin, cdgen: Callable[..., Any], tmp_path: Path) -> None:
    made = begun()
    made.score_all({"baseline": 0.5, "vanilla": 0.5})
    ended = cdgen("report", made.out)
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == str(made.out / "report.html")
    assert "cdgen: cd-0.3-seed1: not finished." in ended.err.splitlines()
    refused = cdgen("report", tmp_path)
    assert refused.code == 2 and "neither a corpus nor an experiment" in refused.err
