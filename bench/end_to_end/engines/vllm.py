"""vLLM's CPU build."""

from __future__ import annotations

import os
from pathlib import Path

from cdgen.bench.end_to_end.engines.worker import Engine, Job, cache_as_weights, work

CACHE_GB = "2"


def load(job: Job) -> Engine:
    cores = sorted(os.sched_getaffinity(0))[: job.threads]
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": CACHE_GB,
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_CACHE_ROOT": str(Path(job.converted) / "vllm"),  # of compiled code
        "VLLM_NO_USAGE_STATS": "1",
    }
    import vllm  # reads the environment

    model = vllm.LLM(
        job.good,
        dtype=job.dtype,
        max_model_len=len(job.prompts[0]) + job.lengths[-1],
        max_num_seqs=len(job.prompts),
    )

    def generate(prompts: list[list[int]], new: int, greedy: bool) -> list[list[int]]:
        settings = vllm.SamplingParams(
            temperature=0.0 if greedy else 1.0,
            max_tokens=new,
            min_tokens=new,
            ignore_eos=True,
            detokenize=False,
        )
        results = model.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], settings, use_tqdm=False
        )
        return [list(result.outputs[0].token_ids) for result in results]

    return Engine(vllm.__version__, cache_as_weights(job), generate)


if __name__ == "__main__":
    work(load)
