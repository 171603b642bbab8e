"""What a run keeps in device memory, part by part, and how many slots fit. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdgen.errors import ModelError

if TYPE_CHECKING:
    from cdgen.models.config import DecoderConfig

SLOT_MULTIPLE = 16  # row counts at which a matrix product gives each row the same bits
MOST_SLOTS = 4096
USABLE_SHARE = 0.9  # of the free memory: the allocator rounds, and other processes come and go
# What the CUDA libraries' workspaces and the captured graphs take beside their tensors: an
# allowance, not measured.
GRAPHS_BYTES = 256 << 20


def layer_parameters(shape: DecoderConfig) -> int:
    """Of the matrices of all layers."""
    attention = (
        2
        * shape.hidden_size
        * shape.head_dim
        * (shape.num_attention_heads + shape.num_key_value_heads)
    )
    matrices = 3 if shape.activation == "silu" else 2  # gated or not
    return shape.num_hidden_layers * (
        attention + matrices * shape.hidden_size * shape.intermediate_size
    )


def parameters(shape: DecoderConfig) -> int:
    """Matrices, embedding, head and the norms' weights; biases are left out, a thousandth."""
    tables = (1 if shape.tie_word_embeddings else 2) * shape.vocab_size * shape.hidden_size
    return layer_parameters(shape) + tables + (2 * shape.num_hidden_layers + 1) * shape.hidden_size


def kv_bytes_per_token(shape: DecoderConfig, kv_bytes: int) -> int:
    return 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * kv_bytes


def _layer_numbers(shape: DecoderConfig) -> int:
    """Numbers per row that one layer's ops leave, as if all lived at once: the residual stream,
    what is added to it, two normed copies; queries, keys and values, turned queries, attended
    values; the MLP's inner rows, with the gate's."""
    heads = (3 * shape.num_attention_heads + 2 * shape.num_key_value_heads) * shape.head_dim
    return (
        4 * shape.hidden_size
        + heads
        + (3 if shape.activation == "silu" else 2) * shape.intermediate_size
    )


def plan_memory(
    good: DecoderConfig,
    bad: DecoderConfig | None,
    slots: int,
    capacity: int,  # tokens that a slot has room for
    dtype_bytes: int,
    kv_bytes: int,  # of a number in the KV caches
    vocab_size: int,  # columns of the logits
    *,
    shared_weights: bool = False,  # BAD is GOOD under dropout
    prefill_tokens: int = 0,  # of prompts that go through the layers at once
) -> dict[str, int]:
    """Bytes by part."""
    models = [good] if bad is None else [good, bad]
    owners = models[:1] if shared_weights else models
    rows = slots + prefill_tokens  # a graph keeps its memory to itself
    scratch = 4 if bad is not None else 0  # fp32 rows that the sampler finishes: BAD's logits
    return {
        "weights": dtype_bytes * sum(parameters(m) for m in owners),
        "kv": slots * capacity * sum(kv_bytes_per_token(m, kv_bytes) for m in models),
        "logits": slots * vocab_size * (dtype_bytes + scratch),
        "activations": rows * dtype_bytes * sum(map(_layer_numbers, models)),
        "graphs": GRAPHS_BYTES,
    }


def largest_slots(
    free_bytes: int,  # before any weight is loaded
    good: DecoderConfig,
    bad: DecoderConfig | None,
    capacity: int,
    dtype_bytes: int,
    kv_bytes: int,
    vocab_size: int,
    *,
    shared_weights: bool = False,
    prefill_tokens: int = 0,
) -> int:
    """The most slots, a multiple of 16 up to 4096, whose plan fits into 90 % of the free memory.
    Raises ModelError where 16 do not fit."""

    def plan(slots: int) -> dict[str, int]:
        return plan_memory(
            good, bad, slots, capacity, dtype_bytes, kv_bytes, vocab_size,
            shared_weights=shared_weights, prefill_tokens=prefill_tokens,
        )  # fmt: skip

    usable = int(USABLE_SHARE * free_bytes)
    for slots in range(MOST_SLOTS, 0, -SLOT_MULTIPLE):
        if sum(plan(slots).values()) <= usable:
            return slots
    least = plan(SLOT_MULTIPLE)
    parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in least.items())
    raise ModelError(
        f"{SLOT_MULTIPLE} slots x {capacity} tokens need {sum(least.values()) / 2**30:.2f} GiB"
        f" ({parts}), {usable / 2**30:.2f} GiB are usable: give fewer --max-new-tokens"
    )
