"""The folder of results is guarded; the tables and the lines on stderr show the scores."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from eval_files import Run, document

from cdgen.eval.checkpoints import NamedCheckpoint
from cdgen.eval.modes import MODES
from cdgen.eval.report import results
from cdgen.eval.report.results import ResultFolder
from cdgen.storage import lock

pytestmark = pytest.mark.usefixtures("one_thread")


def test_two_runs_do_not_write_at_once(run: Run, llama: Path, out: Path) -> None:
    out.mkdir(parents=True)
    with lock(out / ".lock", "held by the test"):
        ended = run(llama)
    assert ended.code != 0 and "another cdgen eval" in ended.err
    assert not (out / "results.json").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"results": {}}'])
def test_a_foreign_results_file_is_left_alone(
    run: Run, llama: Path, out: Path, content: str
) -> None:
    out.mkdir(parents=True)
    (out / "results.json").write_text(content)
    ended = run(llama)
    assert ended.code == 5 and str(out / "results.json") in ended.err
    assert (out / "results.json").read_text() == content


def test_a_line_per_checkpoint_and_task_and_a_table(run: Run, llama: Path, other: Path) -> None:
    ended = run(llama, other, tasks="blimp_fast,perplexity,wug_past_tense")
    assert ended.code == 0
    number = r"-?\d+\.\d{4}"
    assert re.fullmatch(
        rf"""llama \(1/2\)
  blimp_fast  acc {number} \[{number}, {number}\]
  perplexity  perplexity [^\n]*
  wug_past_tense  spearman {number} \[{number}, {number}\]
other \(2/2\)
  blimp_fast  acc [^\n]*
  perplexity  perplexity [^\n]*
  wug_past_tense  [^\n]*
""",
        ended.err,
    ), ended.err
    table = ended.out.splitlines()
    assert table[0] == "| task | metric | llama | other |"
    assert [line.split(" | ")[:2] for line in table[2:7]] == [
        ["| blimp_fast", "acc"],
        ["| perplexity", "byte_perplexity"],
        ["| perplexity", "perplexity"],
        ["| perplexity", "word_perplexity"],
        ["| wug_past_tense", "spearman"],
    ]
    assert "Mode: default." in ended.out


def test_the_table_is_in_percent_but_for_perplexities(run: Run, llama: Path, out: Path) -> None:
    ended = run(llama, tasks="comps,perplexity")
    assert (out / "results.md").read_text() == ended.out
    results = document(out)["results"]
    value, (low, high) = (results["comps"][f"acc{end},none"] for end in ("", "_ci95"))
    cell = f"{100 * value:.2f} ({100 * low:.2f} to {100 * high:.2f})"
    assert f"| comps | acc | {cell} |" in ended.out
    assert f"| perplexity | {results['perplexity']['perplexity,none']:.2f} (" in ended.out


def test_on_a_terminal(run: Run, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    ended = run(llama)
    assert ended.code == 0
    assert "llama (1/1)" in ended.err and "ewok_fast  acc" in ended.err


def test_a_call_that_scores_nothing_leaves_the_tables(run: Run, llama: Path, out: Path) -> None:
    assert run(llama, tasks="blimp_fast").code == 0
    before = {name: (out / name).read_bytes() for name in ("results.md", "curve.csv")}
    ended = run(llama.parent / "nowhere", tasks="blimp_fast")
    assert ended.code == 4 and "no such folder" in ended.err
    assert before == {name: (out / name).read_bytes() for name in before}


def test_results_move_once_their_predictions_have_durably(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power failure could leave predictions in OUT itself, to be taken for the run's."""
    named = NamedCheckpoint("model", tmp_path, None, None)
    ResultFolder.open(tmp_path, named, "sha256", MODES["default"]).save()
    (tmp_path / "babylm2025").mkdir()
    synced = []

    def sync(folder: Path) -> None:
        synced.append((folder, sorted(path.name for path in (tmp_path / "model").iterdir())))

    monkeypatch.setattr(results, "sync_folder", sync)
    results.make_room(tmp_path)
    moved = (["predictions"], ["babylm2025", "predictions"])
    moved += (["babylm2025", "predictions", "results.json"],)
    assert synced == [
        (folder, names) for names in moved for folder in (tmp_path / "model", tmp_path)
    ]


def test_what_a_killed_call_was_writing_is_removed(run: Run, llama: Path, out: Path) -> None:
    left = [out / f".{name}.tmp" for name in ("results.json", "results.md", "of-nobody")]
    out.mkdir(parents=True)
    for path in left:
        path.touch()
    assert run(llama, tasks="blimp_fast").code == 0
    assert not any(path.exists() for path in left)
