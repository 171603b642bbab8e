"""The rows of each benchmark that ran on a CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from cdgen.bench.pictures.row import Row, Run, Spread, once, rates, spread_of

Result = Mapping[str, Any]


def sample_contrastive(run: Run, result: Result) -> Iterator[Row]:
    sizes = f"{result['rows']} x {result['vocab']}"
    for setting, found in result["settings"].items():
        for provider, us in found["us"].items():
            yield run.row(
                "sample_contrastive",
                provider,
                Spread(**us),
                "us",
                shape=f"{sizes}, {setting}",
                dtype=result["dtype"],
                baseline="" if provider == "reference" else "reference",
                ratio=found["reference_over_native"] if provider == "native" else None,
            )


def decode_attention(run: Run, result: Result) -> Iterator[Row]:
    for dtypes, found in result.items():
        own, plain = once(found["gb_per_s"]), once(found["plain_read_gb_per_s"])
        about: dict[str, Any] = {
            "shape": dtypes,
            "dtype": dtypes.split(",")[0],
            "metric": "bandwidth",
        }
        op, unit = "decode_attention", "GB/s"
        yield run.row(
            op, "native", own, unit, **about, baseline="plain read", ratio=found["of_plain_read"]
        )
        yield run.row(op, "plain read", plain, unit, **about)
        time = once(found["ms"] * 1000)
        yield run.row(op, "native", time, "us", shape=dtypes, dtype=about["dtype"])


def generate(run: Run, result: Result) -> Iterator[Row]:
    rows, new = result["rows"], result["new_tokens"]
    shape = f"{rows} rows, {result['prompt_tokens']} + {new} tokens"
    seconds = {"cdgen": result["engine_s"], "transformers": result["transformers_s"]}
    dtype = result.get("dtype", "float32")  # earlier files name none
    for provider, taken in seconds.items():
        compared = {} if provider == "transformers" else {"transformers": result["ratio"]}
        found = rates(rows * new, taken)
        yield _rate(run, "generate", provider, found, shape, compared, dtype)


def bad_kinds(run: Run, result: Result) -> Iterator[Row]:
    for shape, contenders in result.items():
        for kind, found in contenders.items():
            compared = {} if kind == "none" else {"none": found["of_good_alone"]}
            yield _rate(run, "generate by BAD", kind, _rate_spread(found), shape, compared)


def number_formats(run: Run, result: Result) -> Iterator[Row]:
    for shape, contenders in result.items():
        first = next(iter(contenders))
        for name, found in contenders.items():
            compared = {} if name == first else {first: found["of_good_alone"]}
            op, dtype = "generate by number format", name.split(", ")[1]
            yield _rate(run, op, name, _rate_spread(found), shape, compared, dtype)


def engines(run: Run, result: Result) -> Iterator[Row]:
    for shape, found in result.items():
        first = next(iter(found["engines"]))
        for name, engine in found["engines"].items():
            compared = {} if name == first else {first: engine["of_cdgen_vanilla"]}
            rate, dtype = engine["all"], name.split(", ")[1]
            spread = Spread(min(rate), engine["tokens_per_s"], max(rate))
            yield _rate(run, "sampling by engine", name, spread, shape, compared, dtype)


def evaluation(run: Run, result: Result) -> Iterator[Row]:
    names = {"pairs": "blimp_filtered + supplement_filtered"}
    for task in ("pairs", "entity_tracking"):
        if task not in result:
            continue
        found, shape = result[task], names.get(task, task)
        taken, plain = found["cdgen_all_s"], once(found["plain"]["seconds_for_all"])
        own = Spread(min(taken), found["cdgen"]["seconds"], max(taken))
        compared = {"baseline": "plain scorer", "ratio": found["ratio"]}
        yield run.row("eval", "cdgen", own, "s", shape=shape, **compared)
        yield run.row("eval", "plain scorer", plain, "s", shape=shape)
        memory = once(found["cdgen"]["peak_mb"])
        yield run.row("eval", "cdgen", memory, "MB", shape=shape, metric="memory")
    whole = {f"{count} checkpoints": each for count, each in result.get("checkpoints", {}).items()}
    if "zero_shot" in result:
        whole["every zero-shot task, a model of the paper's size"] = result["zero_shot"]
    for shape, found in whole.items():
        yield run.row("eval", "cdgen", once(found["seconds"]), "s", shape=shape)
        peak = once(found["peak_mb"])
        yield run.row("eval", "cdgen", peak, "MB", shape=shape, metric="memory")


def startup(run: Run, result: Result) -> Iterator[Row]:
    for name, shape in (("help", "cdgen --help"), ("first_token_run", "a run of one token")):
        yield run.row("start", "cdgen", spread_of(result[f"{name}_all_s"]), "s", shape=shape)


def train(run: Run, result: Result) -> Iterator[Row]:
    sizes = result["shape"]["model"]
    shape = f"{sizes['hidden_size']} x {sizes['num_hidden_layers']}"
    yield _rate(run, "train", "cdgen", spread_of(result["all_tokens_per_second"]), shape)


def kv_dtype(run: Run, result: Result) -> Iterator[Row]:
    measures = {"kl_mean": "nats", "kl_p99": "nats", "plausible_set_changed": "share"}
    for model in result["models"]:
        for dtype, found in model["formats"].items():
            for metric, unit in measures.items():
                yield run.row(
                    "divergence from float32",
                    dtype,
                    once(found[metric]),
                    unit,
                    shape=model["model"],
                    dtype=dtype,
                    metric=metric,
                )


def scale(run: Run, result: Result) -> Iterator[Row]:
    for size in result["sizes"]:
        for name, found in size.items():
            if isinstance(found, Mapping) and "cpu_seconds" in found:
                about: dict[str, Any] = {"shape": f"{size['sequences']} sequences", "dtype": ""}
                op = f"corpus: {name.replace('_', ' ')}"
                yield run.row(op, "cdgen", once(found["cpu_seconds"]), "CPU s", **about)
                peak = once(found["peak_mib"])
                yield run.row(op, "cdgen", peak, "MiB", **about, metric="memory")


def _rate(
    run: Run,
    op: str,
    provider: str,
    spread: Spread,
    shape: str,
    compared: Mapping[str, float] = MappingProxyType({}),  # the baseline and the ratio to it
    dtype: str = "float32",
) -> Row:
    baseline, ratio = next(iter(compared.items()), ("", None))
    return run.row(
        op,
        provider,
        spread,
        "tokens/s",
        shape=shape,
        dtype=dtype,
        metric="rate",
        baseline=baseline,
        ratio=ratio,
    )


def _rate_spread(found: Result) -> Spread:
    """Return the rates of a contender, of which the file has the median and the seconds of all."""
    taken, rate = spread_of(found["seconds"]), found["tokens_per_s"]
    return Spread(rate * taken.p50 / taken.p80, rate, rate * taken.p50 / taken.p20)
