"""transformers: `generate` in one batch."""

from __future__ import annotations

import torch
import transformers

from cdgen.bench.end_to_end.engines.worker import Engine, Job, cache_as_weights, work


def load(job: Job) -> Engine:
    torch.set_num_threads(job.threads)
    dtype = getattr(torch, job.dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        job.good, dtype=dtype, trust_remote_code=False
    ).eval()

    @torch.inference_mode()
    def generate(prompts: list[list[int]], new: int, greedy: bool) -> list[list[int]]:
        ids = torch.tensor(prompts)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=not greedy,
            top_k=None if greedy else 0,
            max_new_tokens=new,
            pad_token_id=0,
        )
        return [row[len(prompts[0]) :] for row in out.tolist()]

    return Engine(transformers.__version__, cache_as_weights(job), generate)


if __name__ == "__main__":
    work(load)
