"""cdgen: the command as a user runs it, from its start to the finished corpus."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import cdgen
from cdgen.bench.end_to_end.engines.worker import Engine, Job, work
from cdgen.corpus.reader import corpus_rows


def load(job: Job) -> Engine:
    cache = "auto" if job.cache in (job.dtype, "default") else job.cache

    def generate(prompts: list[list[int]], new: int, greedy: bool) -> list[list[int]]:
        """Continue the documents that the job's prompts are the beginnings of."""
        documents = len({tuple(prompt) for prompt in prompts})
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "out"
            options = {
                "good": job.good,
                "bad": job.bad,
                "strategy": "vanilla" if job.bad == "none" else "cd",
                "temperature": 0 if greedy else 1,
                "prompts": job.documents,
                "prompt-tokens": len(prompts[0]),
                "num-sequences": len(prompts) // documents,
                "max-new-tokens": new,
                "slots": len(job.prompts),
                "dtype": job.dtype,
                "kv-dtype": cache,
                "device": "cpu",
                "out": out,
            }
            flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
            command = [sys.executable, "-m", "cdgen", "generate", *flags]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                sys.exit(run.stderr)
            return [row["tokens"][len(prompts[0]) :] for row in corpus_rows(out, ["tokens"])]

    return Engine(cdgen.__version__, job.dtype if cache == "auto" else cache, generate)


if __name__ == "__main__":
    work(load)
