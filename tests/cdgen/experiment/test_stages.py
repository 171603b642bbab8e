"""When a stage counts as done: once the file is there that its command writes last."""

from __future__ import annotations

from pathlib import Path

from made_up_experiment import MadeUp, make_recipe

from cdgen.eval.report.tables import write_tables
from cdgen.experiment.stages import Plan


def test_scores_are_done_with_their_tables(tmp_path: Path) -> None:
    """A run that died between the two, or under an earlier recipe with fewer tasks, writes them."""
    arms = {"cd": {"strategy": "cd", "bad": "gap:0.1", "alpha": 0.1}}
    made = MadeUp(tmp_path / "out", make_recipe(arms=arms, seeds=[1]))
    stages = Plan(made.recipe, tmp_path, made.layout, again=()).stages()
    stage = next(stage for stage in stages if stage.kind == "eval")
    assert not stage.is_done()
    made.score_all({"baseline": 0.5})
    assert not stage.is_done()
    write_tables(stage.place, [stage.place])
    assert stage.is_done()
    curve = stage.place / "curve.csv"
    lines = curve.read_text().splitlines(keepends=True)
    curve.write_text("".join(line for line in lines if "blimp_fast" not in line))
    assert not stage.is_done()
    curve.write_bytes(b"\xff")
    assert not stage.is_done()
