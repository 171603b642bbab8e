"""The commands that write a corpus and look after it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cdgen.generation.config import GenerateConfig, generate_config


def option(name: str, text: str) -> Any:
    """A flag of `GenerateConfig` field `name`, its default shown but left to the configuration."""
    field = GenerateConfig.model_fields[name]
    shown = "" if field.is_required() else f" [default: {field.get_default()}]"
    return typer.Option(help=text + shown, show_default=False)


def generate(
    good: Annotated[Path | None, option("good", "GOOD: a checkpoint folder (safetensors).")] = None,
    bad: Annotated[str | None, option("bad", "BAD: a folder, dropout:P, or none.")] = None,
    prompts: Annotated[
        str | None, option("prompts", "A .txt, .jsonl or .parquet file, a folder, or a dataset.")
    ] = None,
    out: Annotated[
        Path | None, option("out", "The corpus folder; an unfinished one goes on.")
    ] = None,
    format: Annotated[
        str | None,
        option("format", "Of the files: parquet (needs pyarrow) or jsonl."),
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
    dtype: Annotated[
        str | None,
        option("dtype", "float32, bfloat16 or float16; auto: bfloat16 on a GPU, float32 on a CPU."),
    ] = None,
    kv_dtype: Annotated[
        str | None,
        option("kv_dtype", "fp8 halves the KV cache, on a GPU; auto is the dtype of the weights."),
    ] = None,
    device: Annotated[str | None, option("device", "cpu, cuda or auto.")] = None,
    shard: Annotated[
        str | None,
        option("shard", "I/N: this process makes every N-th range from I; then `cdgen finalize`."),
    ] = None,
    workers: Annotated[
        str | None, option("workers", "Processes on this machine; auto: one per GPU.")
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
    from cdgen.generation.new_plan import plan_only
    from cdgen.generation.run import generate as write_corpus

    if dry_run:
        typer.echo(plan_only(chosen).model_dump_json(indent=2))
        return
    outcome = write_corpus(chosen)
    if outcome.sequences:
        typer.echo(
            f"{outcome.sequences} sequences, {outcome.tokens:,} tokens in {outcome.seconds:.1f} s"
            f" ({outcome.tokens / outcome.seconds:,.0f} tokens/s)"
        )
    if outcome.finalized:
        typer.echo(f"complete: {outcome.plan.num_sequences} sequences in {chosen.out}/data")
    else:
        typer.echo(f"shard {chosen.shard} is done; after the last: cdgen finalize {chosen.out}")


def status(out: Annotated[Path, typer.Argument(help="The corpus folder.")]) -> None:
    """Show how far a corpus is and who works on it."""
    from cdgen.corpus.status import status as corpus_status
    from cdgen.progress import duration

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


def verify(out: Annotated[Path, typer.Argument(help="The corpus folder.")]) -> None:
    """Read everything back: checksums, every sequence once, token counts."""
    from cdgen.corpus.verify import verify as find_problems
    from cdgen.errors import StorageError

    problems = find_problems(out)
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise StorageError(f"{out}: {len(problems)} problems")
    typer.echo(f"{out}: intact")


def finalize(out: Annotated[Path, typer.Argument(help="The corpus folder.")]) -> None:
    """Merge the ranges of all shards into the finished corpus."""
    from cdgen.corpus.finalize import finalize as merge

    totals = merge(out).totals
    typer.echo(f"complete: {totals.rows:,} sequences, {totals.tokens:,} tokens in {out}/data")
