"""The commands that write a corpus and look after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cdgen.cli.options import Alpha, Device, MinP, Temperature, TopK, TopP, option
from cdgen.errors import UsageError
from cdgen.generation.config import (
    DocumentConfig,
    GenerateConfig,
    generate_config,
    preview_config,
)


def generate(
    good: Annotated[Path | None, option("good", "Checkpoint folder of GOOD (safetensors).")] = None,
    bad: Annotated[
        str | None,
        option(
            "bad",
            "BAD: a checkpoint folder, layers:N (GOOD stopped after its first N layers, which costs"
            " almost nothing), window:N (GOOD that sees the last N tokens only), dropout:P (GOOD"
            " with attention dropout P) or none.",
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        option(
            "prompts",
            "Documents to continue: a file of text, JSON lines or Parquet, compressed or not, a"
            " folder of them, or a saved or named dataset.",
        ),
    ] = None,
    text_column: Annotated[
        str | None,
        option("text_column", "Column that holds the documents' text; a.b is a nested field."),
    ] = None,
    out: Annotated[
        Path | None,
        option("out", "Corpus folder; an unfinished corpus in it is continued."),
    ] = None,
    format: Annotated[
        str | None,
        option("format", "Format of the corpus files: parquet (needs pyarrow) or jsonl."),
    ] = None,
    strategy: Annotated[
        str | None,
        option(
            "strategy",
            "cd (contrast GOOD with BAD), vanilla (GOOD alone) or plausible (GOOD alone, limited to"
            " the plausible tokens).",
        ),
    ] = None,
    contrast: Annotated[
        float | None,
        option(
            "contrast", "Strength lambda of the contrast: score = log p_GOOD - lambda log p_BAD."
        ),
    ] = None,
    alpha: Alpha = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    masked_score: Annotated[
        float | None,
        option(
            "masked_score",
            "Score of the tokens that the mask and truncation remove, in nats, instead of never"
            " drawing them; slow. Ulm et al. 2025 use -20.",
        ),
    ] = None,
    bos: Annotated[
        str | None,
        option(
            "bos",
            "BOS before every prompt: auto (as GOOD's tokenizer does), always or never.",
        ),
    ] = None,
    prompt_tokens: Annotated[
        int | None,
        option(
            "prompt_tokens",
            "Length of the prompts, the first tokens of each document, BOS included.",
        ),
    ] = None,
    num_sequences: Annotated[
        int | None, option("num_sequences", "Sequences to write per prompt.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, option("max_new_tokens", "Largest number of new tokens in a sequence.")
    ] = None,
    on_eos: Annotated[
        str | None,
        option("on_eos", "When a document ends: stop, or continue with a new document."),
    ] = None,
    seed: Annotated[
        int | None, option("seed", "Seed of all random numbers, an integer of 64 bits.")
    ] = None,
    slots: Annotated[
        str | None,
        option("slots", "Sequences generated at the same time, a multiple of 16, or auto."),
    ] = None,
    dtype: Annotated[
        str | None,
        option(
            "dtype",
            "Number format of the weights: float32, bfloat16 (on a CPU that has bf16 products),"
            " float16 (on a GPU), or auto (bfloat16 on a GPU, float32 on a CPU).",
        ),
    ] = None,
    kv_dtype: Annotated[
        str | None,
        option(
            "kv_dtype",
            "Number format of the KV cache: float32, bfloat16 or int8 (on a CPU), fp8 (on a GPU),"
            " or auto (that of the weights).",
        ),
    ] = None,
    device: Device = None,
    shard: Annotated[
        str | None,
        option(
            "shard",
            "I/N: write every N-th range only, beginning with range I; run cdgen finalize after the"
            " last shard.",
        ),
    ] = None,
    workers: Annotated[
        str | None,
        option(
            "workers",
            "Processes on this machine, or auto (one per GPU, one on a CPU); on Ray, workers on"
            " the cluster, or auto (as many as fit).",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        option(
            "ray",
            "Make the ranges on a Ray cluster: auto (the one of this machine or RAY_ADDRESS), local"
            " (start one here) or HOST:PORT.",
        ),
    ] = None,
    ray_cpus: Annotated[
        int | None,
        option("ray_cpus", "CPUs of a worker on the Ray cluster, beside its GPU if there is one."),
    ] = None,
    range_size: Annotated[
        str | None,
        option(
            "range_size",
            "Sequences committed together, the most that a killed process can lose; or auto.",
        ),
    ] = None,
    logprobs: Annotated[
        bool | None,
        typer.Option(
            "--logprobs",
            help="Add the column good_logprob, GOOD's log-probability of the new tokens.",
            show_default=False,
        ),
    ] = None,
    max_quarantined: Annotated[
        int | None,
        option("max_quarantined", "Sequences with NaN logits to accept; more mean exit code 6."),
    ] = None,
    grace: Annotated[
        int | None,
        option(
            "grace",
            "Seconds that a signal (Ctrl-C, SIGTERM, SIGUSR1) leaves to finish the range in"
            " progress, if it fits; 0 stops after the step.",
        ),
    ] = None,
    watchdog: Annotated[
        int | None,
        option(
            "watchdog",
            "Seconds without a token after which a run that hangs writes its stacks and exits with"
            " code 75; 0 is off.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with any of these options; flags override it.")
    ] = None,
    pair: Annotated[
        Path | None,
        typer.Option(
            help="File of cdgen train --select-pair: names GOOD and BAD unless a flag or the YAML"
            " file does."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan as JSON and write nothing.")
    ] = False,
    preview: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Print the first N sequences and write nothing; needs no --out.",
        ),
    ] = None,
) -> None:
    """Write a corpus. Run the same command again to continue one that was interrupted."""
    flags = {name: value for name, value in locals().items() if name in GenerateConfig.model_fields}
    if preview is not None:
        if dry_run:
            raise UsageError("--dry-run does not go with --preview; leave one out")
        _preview(preview_config(flags, config, pair), preview)
        return
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


def _preview(config: DocumentConfig, count: int) -> None:
    from cdgen.generation.preview import preview

    for row in preview(config, count):
        typer.echo(
            f"== sequence {row.sequence_id} of prompt {row.prompt_id}: {row.prompt_tokens} +"
            f" {row.new_tokens} tokens, {row.finish_reason}\n{row.text}\n"
        )


def verify(
    out: Annotated[Path, typer.Argument(help="Corpus folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the problems as JSON.")] = False,
) -> None:
    """Check a corpus: checksums, every sequence once, token counts."""
    from cdgen.corpus.advice import on_problems
    from cdgen.corpus.folder import CorpusFolder
    from cdgen.corpus.verify import find_problems
    from cdgen.errors import StorageError
    from cdgen.progress import counted

    problems = find_problems(out)
    texts, advice = [p.text for p in problems], on_problems(CorpusFolder(out), problems)
    if as_json:
        found = {"intact": not problems, "problems": texts, "advice": advice}
        typer.echo(json.dumps(found, indent=2))
    else:
        typer.echo("\n".join([*texts, *advice] or [f"{out}: intact"]))
    if problems:
        raise StorageError(f"{out}: {counted(len(problems), 'problem')}")


def finalize(out: Annotated[Path, typer.Argument(help="Corpus folder.")]) -> None:
    """Merge the ranges of all shards into the finished corpus."""
    from cdgen.corpus.finalize import finalize as merge

    totals = merge(out).totals
    typer.echo(f"complete: {totals.rows:,} sequences, {totals.tokens:,} tokens in {out}/data")
