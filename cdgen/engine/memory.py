"""The device memory of a run, part by part, and the slots that fit into it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdgen.errors import ModelError

if TYPE_CHECKING:
    from cdgen.models.config import DecoderConfig

SLOT_MULTIPLE = 16  # row counts at which a matrix product gives each row the same bits
MOST_SLOTS = 4096
USABLE_SHARE = 0.9  # of the free memory: the allocator rounds up, and other processes come and go
LOGPROB_BYTES = 24  # per logit: its float64 copy, and two more that logsumexp makes
# An allowance for the CUDA libraries' workspaces and the captured graphs beside their tensors. It
# was not measured.
GRAPHS_BYTES = 256 << 20


@dataclass(frozen=True)
class MemoryNeeds:
    """All that decides the memory of a run except the number of slots."""

    good: DecoderConfig
    bad: DecoderConfig | None
    capacity: int  # tokens that a slot has room for
    dtype_bytes: int  # of a weight or an activation
    kv_bytes: int  # of a number in the KV caches
    kv_scale_bytes: int = 0  # of the scale that a head's keys, or values, of one token share
    shared_weights: bool = False  # BAD runs on GOOD's weights
    bad_window: int = 0  # tokens that BAD's cache has room for; 0: `capacity`
    exits_early: bool = False  # BAD is GOOD after some of its layers: `bad` is None
    prefill_tokens: int = 0  # prompt tokens that go through the layers at once
    logprobs: bool = False  # log-probabilities are summed, from float64 copies of the logits

    @property
    def models(self) -> list[DecoderConfig]:
        return [self.good] if self.bad is None else [self.good, self.bad]

    @property
    def caches(self) -> list[tuple[DecoderConfig, int]]:
        """The shape of each model that has a cache, and the tokens that a slot of it has room
        for."""
        rooms = (self.capacity, self.bad_window or self.capacity)
        return list(zip(self.models, rooms, strict=False))  # there may be no BAD


def parameters(shape: DecoderConfig) -> int:
    """Count the numbers in matrices, embedding, head and norms. Biases, a thousandth of them, are
    left out."""
    tables = (1 if shape.tie_word_embeddings else 2) * shape.vocab_size * shape.hidden_size
    norms = (2 * shape.num_hidden_layers + 1) * shape.hidden_size
    return shape.layer_parameters + tables + norms


def padded_head(shape: DecoderConfig) -> int:
    """Count the numbers in the copy of the head that makes logits of `logits_width` columns."""
    return shape.logits_width * shape.hidden_size if shape.logits_width > shape.vocab_size else 0


def kv_bytes_per_token(shape: DecoderConfig, kv_bytes: int, scale_bytes: int = 0) -> int:
    head = shape.head_dim * kv_bytes + scale_bytes
    return 2 * shape.num_hidden_layers * shape.num_key_value_heads * head


def _layer_numbers(shape: DecoderConfig) -> int:
    """Count the numbers per row that the ops of one layer produce, as if all lived at once: the
    residual stream, the summand added to it, and two normed copies; queries, keys and values,
    rotated queries, attention output; the inner rows of the MLP, with those of its gate."""
    heads = 3 * shape.query_size + 2 * shape.kv_size
    inner = (3 if shape.activation == "silu" else 2) * shape.intermediate_size
    return 4 * shape.hidden_size + heads + inner


def plan_memory(needs: MemoryNeeds, slots: int) -> dict[str, int]:
    """Return the bytes of each part of a run with that many slots."""
    models = needs.models
    owners = models[:1] if needs.shared_weights else models
    rows = slots + needs.prefill_tokens  # a graph does not share its memory with the prefill
    # fp32 scratch for BAD's logits in rows that overflow the sampler's lists
    scratch_bytes = 4 if needs.bad is not None or needs.exits_early else 0
    return {
        "weights": needs.dtype_bytes * sum(parameters(m) + padded_head(m) for m in owners),
        "kv": slots
        * sum(
            room * kv_bytes_per_token(m, needs.kv_bytes, needs.kv_scale_bytes)
            for m, room in needs.caches
        ),
        "logits": slots
        * needs.good.logits_width
        * (needs.dtype_bytes + scratch_bytes + LOGPROB_BYTES * needs.logprobs),
        # On a CPU a recording writes to two layers' memory in turn.
        "activations": 2 * rows * needs.dtype_bytes * sum(map(_layer_numbers, models)),
        "graphs": GRAPHS_BYTES,
    }


def largest_slots(needs: MemoryNeeds, free_bytes: int) -> int:
    """Return the most slots, a multiple of 16 up to 4096, that fit into 90 % of `free_bytes`, the
    memory that is free before any weight is loaded.

    Raises ModelError if 16 slots do not fit.
    """
    usable = int(USABLE_SHARE * free_bytes)
    for slots in range(MOST_SLOTS, 0, -SLOT_MULTIPLE):
        if sum(plan_memory(needs, slots).values()) <= usable:
            return slots
    least = describe_parts(plan_memory(needs, SLOT_MULTIPLE))
    raise ModelError(
        f"{SLOT_MULTIPLE} slots x {needs.capacity} tokens need {least}, {gib(usable)} are usable:"
        " give fewer --max-new-tokens"
    )


def describe_parts(parts: dict[str, int]) -> str:
    """Return the sum and the parts of a memory plan as text, in GiB."""
    each = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items())
    return f"{gib(sum(parts.values()))} ({each})"


def gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
