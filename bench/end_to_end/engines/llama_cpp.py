"""llama.cpp by the bindings of llama-cpp-python: all sequences in one batch, its own samplers.

GOOD is written with llama.cpp's package `gguf`: its converter takes the tokenizers of published
models only, and the engine needs none here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file

from cdgen.bench.end_to_end.engines.worker import Engine, Job, converted_once, work

TYPES = {"float32": gguf.GGMLQuantizationType.F32, "bfloat16": gguf.GGMLQuantizationType.BF16}
SEED = 1


def pairs_of_rope(
    weight: np.ndarray,  # [H * Dh, D]
    heads: int,
) -> np.ndarray:
    """Reorder the rows of each head: llama.cpp turns neighbours, Hugging Face's Llama turns rows
    half a head apart."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def convert(good: Path, dtype: str, out: Path) -> None:
    config = json.loads((good / "config.json").read_text())
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    for name, tensor in load_file(good / "model.safetensors").items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = pairs_of_rope(tensor, heads)
        stored = TYPES[dtype if tensor.ndim == 2 else "float32"]  # norms stay in fp32
        written = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(written, gguf.quants.quantize(tensor, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def feed(context: Any, batch: Any, tokens: list[list[int]], start: int) -> None:
    """Run T tokens of every sequence [B][T] from position `start`, with logits for the last."""
    batch.n_tokens = 0
    for sequence, row in enumerate(tokens):
        for offset, token in enumerate(row):
            place = batch.n_tokens
            batch.token[place], batch.pos[place] = token, start + offset
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
            batch.logits[place] = offset == len(row) - 1
            batch.n_tokens += 1
    if status := llama_cpp.llama_decode(context, batch):
        raise RuntimeError(f"llama_decode: status {status}")


def load(job: Job) -> Engine:
    name = f"{job.dtype}.gguf"
    file = converted_once(job, name, lambda out: convert(Path(job.good), job.dtype, out))
    rows, prompt_tokens = len(job.prompts), len(job.prompts[0])
    model = llama_cpp.llama_model_load_from_file(
        str(file).encode(), llama_cpp.llama_model_default_params()
    )
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = rows * (prompt_tokens + max(job.lengths))
    settings.n_batch = rows * prompt_tokens
    settings.n_seq_max = rows
    settings.n_threads = settings.n_threads_batch = job.threads
    if job.cache != "default":
        settings.type_k = settings.type_v = TYPES[job.cache]
    context = llama_cpp.llama_init_from_model(model, settings)
    batch = llama_cpp.llama_batch_init(rows * prompt_tokens, 0, 1)
    samplers = {
        True: llama_cpp.llama_sampler_init_greedy(),
        False: llama_cpp.llama_sampler_init_dist(SEED),
    }

    def generate(prompts: list[list[int]], new: int, greedy: bool) -> list[list[int]]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        feed(context, batch, prompts, 0)
        last = [(i + 1) * prompt_tokens - 1 for i in range(len(prompts))]  # places in the batch
        drawn: list[list[int]] = [[] for _ in prompts]
        for step in range(new):
            for row, place in zip(drawn, last, strict=True):
                row.append(llama_cpp.llama_sampler_sample(samplers[greedy], context, place))
            if step < new - 1:
                feed(context, batch, [row[-1:] for row in drawn], prompt_tokens + step)
                last = list(range(len(prompts)))
        return drawn

    cache = gguf.GGMLQuantizationType(settings.type_k).name
    return Engine(llama_cpp.__version__, cache, generate)


if __name__ == "__main__":
    work(load)
