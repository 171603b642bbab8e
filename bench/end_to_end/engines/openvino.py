"""OpenVINO GenAI: optimum-intel's export, ContinuousBatchingPipeline."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino
import openvino_genai
from optimum.intel import OVModelForCausalLM

from cdgen.bench.end_to_end.engines.worker import Engine, Job, converted_once, work

CACHE_GB = 2
CACHE_OPTION = ["runtime_options", "KV_CACHE_PRECISION"]
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "u8"}


def convert(good: str, out: Path) -> None:
    model = OVModelForCausalLM.from_pretrained(
        good, export=True, compile=False, load_in_8bit=False, trust_remote_code=False
    )
    model.save_pretrained(out)


def load(job: Job) -> Engine:
    folder = converted_once(job, "openvino", lambda out: convert(job.good, out))
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = CACHE_GB
    scheduler.max_num_seqs = len(job.prompts)
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": job.threads,
        "INFERENCE_PRECISION_HINT": PRECISIONS[job.dtype],
    }
    if job.cache == "default":  # the one that the exporter wrote into the model
        model = openvino.Core().read_model(folder / "openvino_model.xml")
        cache = model.get_rt_info(CACHE_OPTION).astype(str)
    else:
        cache = properties["KV_CACHE_PRECISION"] = PRECISIONS[job.cache]
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        str(folder), scheduler, "CPU", properties, {}
    )

    def generate(prompts: list[list[int]], new: int, greedy: bool) -> list[list[int]]:
        settings = [openvino_genai.GenerationConfig() for _ in prompts]
        for number, one in enumerate(settings):
            one.max_new_tokens = new
            one.min_new_tokens = new
            one.ignore_eos = True
            one.set_eos_token_id(0)  # one must be named
            one.do_sample = not greedy
            one.rng_seed = number  # with one seed, equal prompts are continued equally
        inputs = [openvino.Tensor(np.array([prompt])) for prompt in prompts]
        results = pipeline.generate(inputs, settings)
        return [list(result.m_generation_ids[0]) for result in results]

    return Engine(version("openvino-genai"), cache, generate)


if __name__ == "__main__":
    work(load)
