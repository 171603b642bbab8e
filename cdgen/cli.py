"""The command line. Nothing here imports torch: `cdgen --help` answers at once."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from cdgen.config import GenerateConfig, generate_config
from cdgen.errors import CdgenError, Interrupted, UsageError

_TYPERS_INTERRUPT = 130  # what an app returns, rather than raises, on Ctrl-C
# What only some commands need, and the extra that brings it.
_EXTRAS = {"accelerate": "train", "matplotlib": "eval", "scipy": "eval"}

app = typer.Typer(
    name="cdgen",
    help="Write synthetic pre-training corpora by contrasting two language models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def option(name: str, text: str) -> Any:
    """A flag of `GenerateConfig` field `name`, its default shown but left to the configuration."""
    field = GenerateConfig.model_fields[name]
    shown = "" if field.is_required() else f" [default: {field.get_default()}]"
    return typer.Option(help=text + shown, show_default=False)


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Write synthetic pre-training corpora by contrasting two language models."""


@app.command()
def generate(
    good: Annotated[Path | None, option("good", "GOOD: a checkpoint folder (safetensors).")] = None,
    bad: Annotated[str | None, option("bad", "BAD: a folder, dropout:P, or none.")] = None,
    prompts: Annotated[
        str | None, option("prompts", "A .txt, .jsonl or .parquet file, a folder, or a dataset.")
    ] = None,
    out: Annotated[
        Path | None, option("out", "The corpus folder; an unfinished one goes on.")
    ] = None,
    strategy: Annotated[
        str | None, option("strategy", "cd, vanilla (GOOD alone) or plausible (the mask alone).")
    ] = None,
    contrast: Annotated[
        float | None,
        option("contrast", "Contrast strength lambda: score = log p_GOOD - lambda log p_BAD."),
    ] = None,
    alpha: Annotated[
        float | None, option("alpha", "Plausible tokens have p_GOOD >= alpha x the largest.")
    ] = None,
    temperature: Annotated[float | None, option("temperature", "0 is greedy.")] = None,
    top_k: Annotated[int | None, option("top_k", "Keep the k best scores; 0 is off.")] = None,
    top_p: Annotated[
        float | None, option("top_p", "Keep the best scores of total mass p; 1 is off.")
    ] = None,
    min_p: Annotated[
        float | None, option("min_p", "Keep scores of at least p x the best; 0 is off.")
    ] = None,
    prompt_tokens: Annotated[
        int | None,
        option("prompt_tokens", "Tokens of each document that make its prompt, BOS included."),
    ] = None,
    num_sequences: Annotated[int | None, option("num_sequences", "Sequences per prompt.")] = None,
    max_new_tokens: Annotated[int | None, option("max_new_tokens", "Longest continuation.")] = None,
    on_eos: Annotated[
        str | None, option("on_eos", "stop, or continue with a new document.")
    ] = None,
    seed: Annotated[int | None, option("seed", "64 bits.")] = None,
    slots: Annotated[
        str | None, option("slots", "Rows that run in lockstep; a multiple of 16.")
    ] = None,
    dtype: Annotated[str | None, option("dtype", "float32.")] = None,
    device: Annotated[str | None, option("device", "cpu.")] = None,
    shard: Annotated[
        str | None,
        option("shard", "I/N: this process makes every N-th range from I; then `cdgen finalize`."),
    ] = None,
    range_size: Annotated[
        str | None, option("range_size", "Sequences committed together: what a kill can cost.")
    ] = None,
    logprobs: Annotated[
        bool | None,
        typer.Option("--logprobs", help="Add the column good_logprob.", show_default=False),
    ] = None,
    max_quarantined: Annotated[
        int | None, option("max_quarantined", "Rows with NaN logits to accept before exit code 6.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML with these options; flags override it.")
    ] = None,
    pair: Annotated[
        Path | None,
        typer.Option(help="GOOD and BAD from a file of cdgen train --select-pair, unless given."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
) -> None:
    """Write a corpus; run the same command again to go on after an interruption."""
    flags = {name: value for name, value in locals().items() if name in GenerateConfig.model_fields}
    chosen = generate_config(flags, config, pair)
    from cdgen import generate as generation

    if dry_run:
        typer.echo(generation.plan_only(chosen).model_dump_json(indent=2))
        return
    outcome = generation.generate(chosen)
    if outcome.sequences:
        typer.echo(
            f"{outcome.sequences} sequences, {outcome.tokens:,} tokens in {outcome.seconds:.1f} s"
            f" ({outcome.tokens / outcome.seconds:,.0f} tokens/s)"
        )
    if outcome.finalized:
        typer.echo(f"complete: {outcome.plan.num_sequences} sequences in {chosen.out}/data")
    else:
        typer.echo(f"shard {chosen.shard} is done; after the last: cdgen finalize {chosen.out}")


@app.command()
def status(out: Annotated[Path, typer.Argument(help="The corpus folder.")]) -> None:
    """Show how far a corpus is and who works on it."""
    from cdgen.progress import duration
    from cdgen.status import status as corpus_status

    found = corpus_status(out)
    counts = found.counts
    typer.echo(
        f"ranges {found.ranges_done}/{found.ranges_total}"
        f"{', finalized' if found.finalized else ''}\n"
        f"sequences {counts.rows:,}  tokens {counts.tokens:,} ({counts.new_tokens:,} new)"
        f"  words {counts.words:,}\n"
        "ended by "
        + ", ".join(f"{reason} {number:,}" for reason, number in counts.finish_reasons.items())
    )
    for worker in found.workers:
        state = (
            "at work" if found.is_alive(worker) else f"silent for {found.now - worker.time:.0f} s"
        )
        typer.echo(
            f"shard {worker.shard} on {worker.host} (pid {worker.pid}): {state},"
            f" range {worker.range_index}, {worker.tokens_per_second:,.0f} tokens/s"
        )
    if found.eta_seconds is not None:
        typer.echo(f"left {duration(found.eta_seconds)}")


@app.command()
def verify(out: Annotated[Path, typer.Argument(help="The corpus folder.")]) -> None:
    """Read everything back: checksums, every sequence once, token counts."""
    from cdgen.errors import StorageError
    from cdgen.verify import verify as find_problems

    problems = find_problems(out)
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise StorageError(f"{out}: {len(problems)} problems")
    typer.echo(f"{out}: intact")


@app.command()
def finalize(out: Annotated[Path, typer.Argument(help="The corpus folder.")]) -> None:
    """Merge the ranges of all shards into the finished corpus."""
    from cdgen.finalize import finalize as merge

    totals = merge(out).totals
    typer.echo(f"complete: {totals.rows:,} sequences, {totals.tokens:,} tokens in {out}/data")


@app.command()
def train(
    out: Annotated[
        Path, typer.Option(help="Run folder; an unfinished run goes on. Of a pair: its file.")
    ],
    config: Annotated[Path | None, typer.Option(help="A recipe, recipes/*.yaml.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the recipe's sources.")] = None,
    select_pair: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Train nothing: choose GOOD and BAD in finished runs."),
    ] = None,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="More runs to choose from.")
    ] = None,
    gap: Annotated[
        float | None,
        typer.Option(
            help="How far BAD is above GOOD at least, nats per token [default: 0.5].",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train a model from a recipe, or choose a GOOD/BAD pair among trained ones."""
    if select_pair:
        if config or data:
            raise UsageError("--select-pair trains nothing: leave out --config and --data")
        _select_pair([*select_pair, *(more or [])], 0.5 if gap is None else gap, out)
        return
    if more or gap is not None:
        what = more[0] if more else "--gap"
        raise UsageError(f"{what} belongs to --select-pair RUN, which is missing")
    if config is None or data is None:
        missing = "--config" if config is None else "--data"
        raise UsageError(f"{missing} is missing: give it, or choose a pair with --select-pair RUN")
    from cdgen.train.loop import train_recipe

    train_recipe(config, data, out)


def _select_pair(runs: list[Path], gap: float, out: Path) -> None:
    from cdgen.train.selection import select_pair, write_pair_file

    selection = select_pair(runs, gap)
    write_pair_file(selection, out)
    for note in selection.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{selection.table()}\nnext: cdgen generate --pair {out}")


@app.command("eval")
def evaluate(
    model: Annotated[
        list[Path],
        typer.Option(metavar="DIR", help="A checkpoint folder, or a run's folder of checkpoints."),
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Evaluation data in the BabyLM layout.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Results; what is there already is not repeated.")
    ],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR]...", help="More checkpoint folders.")
    ] = None,
    tasks: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Data folders, such as blimp_fast,reading [default: all zero-shot ones].",
            show_default=False,
        ),
    ] = "",
    compat: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="babylm2025 or paper: their rules for ties, spans and WUG. Else ties count half.",
        ),
    ] = "default",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Score checkpoints on the BabyLM tasks, all in one process."""
    from cdgen.config import validated
    from cdgen.eval.run import EvalConfig, evaluate

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    flags = {"models": [*model, *(more or [])], "data": data, "out": out, "tasks": names}
    outcome = evaluate(validated(EvalConfig, {**flags, "compat": compat, "device": device}))
    typer.echo((out / "results.md").read_text(), nl=False)
    for task, reason in outcome.skipped.items():
        typer.echo(f"skipped {task}: {reason}")
    failures = [type(error)(f"{name}: {error}") for name, error in outcome.failed.items()]
    for failure in failures[:-1]:
        typer.echo(f"cdgen: {failure}", err=True)
    if failures:
        raise failures[-1]


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="DIR or NAME=DIR[,DIR...] of cdgen eval, per seed."),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="A method's name [default: the first].", show_default=False)
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(
            help="Which checkpoint speaks for a run: that of least validation loss, the last one,"
            " or, as in the paper, each task's best. validation | last | paper"
            " [default: validation; paper for runs of --compat paper]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for compare.md, compare.json and figures.png.")
    ] = None,
) -> None:
    """Compare evaluated methods with a baseline: the paper's table and figures."""
    from cdgen.eval.compare_report import make_report, write_report
    from cdgen.eval.methods import parse_method, parse_select

    rule = parse_select(select) if select else None
    report = make_report([parse_method(text) for text in runs], baseline, rule)
    typer.echo(report.markdown(), nl=False)
    if out:
        write_report(report, out)


@app.command()
def measure(
    corpus: Annotated[Path, typer.Argument(help="A corpus of cdgen generate, or text files.")],
    training: Annotated[
        list[Path] | None, typer.Option(help="Training text: count n-grams that it lacks.")
    ] = None,
    judge: Annotated[
        Path | None, typer.Option(help="A model that had no part in it: perplexity of the text.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda, for the judge.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Write the numbers as JSON.")] = None,
) -> None:
    """Measure a corpus: diversity, repetition, novelty, lengths, perplexity."""
    from cdgen.eval.measure import lines, measure_corpus
    from cdgen.eval.run import choose_device
    from cdgen.storage import canonical_json, make_folder, write_atomic

    found = measure_corpus(corpus, training or [], judge, choose_device(device))
    typer.echo("\n".join(lines(found)))
    if out:
        make_folder(out.parent)
        write_atomic(out, canonical_json(found))


def run(command: Callable[[], Any]) -> int:
    """Runs `command`; turns what it raises into a line or two and an exit code."""
    try:
        if command() == _TYPERS_INTERRUPT:
            kept = "what was finished is kept. Run the same command again to go on."
            print(f"cdgen: interrupted; {kept}", file=sys.stderr)
            return Interrupted.exit_code
    except TyperException as error:  # what typer itself refuses: flags and their types
        text = error.format_message()
        is_help = text.startswith("Usage:")  # `cdgen` alone
        print(text if is_help else f"cdgen: {text} (--help lists what there is)", file=sys.stderr)
        return 2
    except Exception as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        if isinstance(error, CdgenError):
            print(f"cdgen: {error}", file=sys.stderr)
            return error.exit_code
        if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
            needed = f"{error.name} is not installed: pip install 'cdgen[{_EXTRAS[error.name]}]'"
            print(f"cdgen: {needed}", file=sys.stderr)
            return UsageError.exit_code
        print(
            f"cdgen: unexpected {type(error).__name__}: {' '.join(str(error).split())}\n"
            "Please report it with the output of the same command after `cdgen --debug`.",
            file=sys.stderr,
        )
        return 1
    return 0


def execute(command: Callable[[], Any]) -> NoReturn:
    """Ends the process as `run` says."""
    # Threads that wait for each other spin for some microseconds, then sleep. It must be said
    # before torch loads its OpenMP runtime; the user's own setting stands (docs/decisions.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    sys.exit(run(command))


def main() -> None:
    execute(lambda: app(standalone_mode=False))
