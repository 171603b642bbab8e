"""Shares are exact at every moment, every epoch reads each sequence once, and order is pure."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from accelerate.data_loader import BatchSamplerShard, skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from cdgen.errors import UsageError
from cdgen.train.data.mixture import Mixture, Share, shares_of

RATIOS = [Fraction(n, 10) for n in range(1, 10)]


def mixture(ratio: Fraction, weights: tuple[int, ...] = (1,), seed: int = 0) -> Mixture:
    corpora = [(f"c{i}", 7 + i, Fraction(weight)) for i, weight in enumerate(weights)]
    return Mixture(shares_of(ratio, ("real", 11), corpora), seed)


@pytest.mark.parametrize("ratio", RATIOS, ids=str)
@pytest.mark.parametrize("batch", [1, 16, 256])
def test_the_share_is_within_one_sequence_after_every_step(ratio: Fraction, batch: int) -> None:
    """The paper's code made 30 % of a batch of 16 into 25 %."""
    mix = mixture(ratio)
    for step in range(1, 1001):
        real, synthetic = mix.counts(step * batch)
        assert real + synthetic == step * batch
        assert abs(synthetic - ratio * step * batch) <= Fraction(1, 2)


@pytest.mark.parametrize("ratio", [Fraction(3, 10), Fraction(1, 3), Fraction(7, 8)], ids=str)
def test_what_is_drawn_is_what_is_counted(ratio: Fraction) -> None:
    mix = mixture(ratio, (1, 3, 2))
    seen: Counter[int] = Counter()
    for position in range(2000):
        assert [seen[stream] for stream in range(4)] == mix.counts(position)
        stream, index = mix.draw(position)
        assert index == seen[stream]  # a stream is read without gaps
        seen[stream] += 1


@given(
    st.fractions(0, 1).filter(lambda r: r < 1),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(0, 10**7),
)
@settings(max_examples=200, deadline=None)
def test_several_corpora_share_the_ratio_by_weight(
    ratio: Fraction, weights: list[int], positions: int
) -> None:
    counts = mixture(ratio, tuple(weights)).counts(positions)
    expected = [1 - ratio, *(ratio * weight / sum(weights) for weight in weights)]
    assert sum(counts) == positions
    # Each nested rounding is off by 1/2 at most and passes no more than that on.
    for stream, (count, share) in enumerate(
        zip(counts, expected if ratio else expected[:1], strict=True)
    ):
        assert abs(count - share * positions) <= Fraction(stream + 1, 2)
    assert abs(sum(counts[1:]) - ratio * positions) <= Fraction(1, 2)


def test_every_epoch_of_a_stream_reads_each_sequence_once_in_a_new_order() -> None:
    mix = mixture(Fraction(2, 5), (2, 1))
    read: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for position in range(600):
        stream, index = mix.at(position)
        read[stream].append(index)
    for stream, indices in read.items():
        size = mix.shares[stream].blocks
        epochs = [indices[i : i + size] for i in range(0, len(indices) - size + 1, size)]
        assert len(epochs) > 5
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert epochs[0] != epochs[1]


def test_order_is_a_function_of_seed_and_position_alone() -> None:
    forward = [mixture(Fraction(1, 3)).at(position) for position in range(200)]
    mix = mixture(Fraction(1, 3))
    assert [mix.at(position) for position in reversed(range(200))] == forward[::-1]
    assert [mixture(Fraction(1, 3), seed=1).at(position) for position in range(200)] != forward


class Positions:
    def __len__(self) -> int:
        return 960

    def __getitem__(self, position: int) -> int:
        return position


def batches(processes: int, accumulation: int, skip: int = 0) -> list[list[int]]:
    """Return the positions of every optimizer step, as accelerate deals them to a Trainer's
    processes."""
    micro = 32 // processes // accumulation
    sampler = BatchSampler(SequentialSampler(range(960)), micro, drop_last=True)
    per_process = []
    for process in range(processes):
        shard = BatchSamplerShard(sampler, processes, process)
        loader: Any = DataLoader(Positions(), batch_sampler=shard)  # type: ignore[arg-type]
        per_process.append([batch.tolist() for batch in skip_first_batches(loader, skip)])
    steps = []
    for first in range(0, len(per_process[0]), accumulation):
        mine = [own[first : first + accumulation] for own in per_process]
        steps.append(sorted(p for own in mine for batch in own for p in batch))
    return steps


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (1, 4), (4, 1), (4, 2)])
def test_a_step_has_the_same_positions_on_any_number_of_devices(
    processes: int, accumulation: int
) -> None:
    expected = [list(range(32 * step, 32 * step + 32)) for step in range(30)]
    assert batches(processes, accumulation) == expected
    assert batches(processes, accumulation, skip=7 * accumulation) == expected[7:]  # a resume


def test_repeats_are_in_epochs() -> None:
    mix = mixture(Fraction(1, 2))
    assert mix.repeats(44) == {"real": 2.0, "c0": 22 / 7}


@pytest.mark.parametrize("ratio", [Fraction(-1, 10), Fraction(1), Fraction(3, 2)])
def test_ratios_outside_their_range_are_refused(ratio: Fraction) -> None:
    with pytest.raises(UsageError, match="ratio"):
        mixture(ratio)


def test_streams_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(UsageError, match="c0: holds not one"):
        Mixture(shares_of(Fraction(1, 2), ("real", 3), [("c0", 0, Fraction(1))]), 0)
    with pytest.raises(UsageError, match="no corpus"):
        shares_of(Fraction(1, 2), ("real", 3), [])
    with pytest.raises(UsageError, match="add up to 1"):
        Mixture([Share("real", Fraction(1, 2), 3)], 0)
    alone = Mixture(shares_of(Fraction(0), ("real", 3), [("c0", 0, Fraction(1))]), 0)
    assert alone.counts(5) == [5]
