"""The BADs that `cdgen generate` can make of GOOD, and their losses on GOOD's held-out text.

Loss(BAD) is GOOD's loss of its run plus the difference of the two on an even sample of that text,
computed by the lean decoder, as `cdgen generate` computes BAD.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from cdgen.checkpoints.bad_source import BadSource, MadeOfGood
from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.loading import load_tensors
from cdgen.errors import StorageError, UsageError
from cdgen.models.config import DecoderConfig
from cdgen.models.decoder import Decoder, Dropout
from cdgen.models.prefill import hidden_states
from cdgen.models.registry import lean_config
from cdgen.train.data.packing import read_and_taught
from cdgen.train.data.token_files import find
from cdgen.train.data.training_data import real_key
from cdgen.train.pair.candidates import Candidate
from cdgen.train.record import read_record
from cdgen.train.validation import BATCH_BLOCKS, summed_loss

_WINDOWS = (1, 4, 16, 64, 256)
# The standard error of a difference is then about 0.01: that of one token has a deviation near 1.
_SAMPLED_TOKENS = 1 << 13
_NOISE_SEED = 0  # of dropout; a run has its own


@dataclass(frozen=True)
class BadOfGood:
    """A BAD made of GOOD."""

    source: BadSource
    loss: float | None  # nats/token; None if GOOD's run keeps no held-out text

    @property
    def text(self) -> str:
        """As for --bad."""
        return self.source.plan_text(None)


def bads_of_good(good: Candidate, context: int, asked: BadSource | None) -> list[BadOfGood]:
    """Return a few BADs of every kind, by kind and number, and `asked` among them.

    There are none if the lean decoders do not cover GOOD. `context` is GOOD's, in tokens. Raises
    UsageError if GOOD cannot be made into `asked`, ModelError if it cannot be loaded.
    """
    checkpoint = open_checkpoint(good.folder)
    blocks = held_out_sample(good.run)
    shape = lean_config(checkpoint.config, context if blocks is None else blocks.shape[1])
    if shape is None:
        if asked:
            raise UsageError(
                f"--bad {asked.plan_text(None)} needs a GOOD that the lean decoders cover, which"
                f" {good.folder} is not"
            )
        return []
    if asked:
        asked.require_weaker(shape.num_hidden_layers, context)
    sources = {*_usual(shape, context), *([asked] if asked else [])}
    kinds = get_args(MadeOfGood)
    ordered = sorted(sources, key=lambda s: (kinds.index(s.kind), s.layers, s.window, s.dropout))
    tensors = {} if blocks is None else load_tensors(checkpoint, torch.float32)
    return [
        BadOfGood(
            source,
            None if blocks is None else good.loss + excess_loss(shape, tensors, source, blocks),
        )
        for source in ordered
    ]


def _usual(shape: DecoderConfig, context: int) -> Iterator[BadSource]:
    """Yield GOOD after a quarter, a half and three quarters of its layers, under short and long
    windows, and with dropout."""
    for quarters in (1, 2, 3):
        if layers := shape.num_hidden_layers * quarters // 4:
            yield BadSource("layers", layers=layers)
    for window in _WINDOWS:
        if window < context - 1:
            yield BadSource("window", window=window)
    yield BadSource("dropout", dropout=0.5)


def held_out_sample(run: Path) -> np.ndarray | None:  # [blocks, block_size] int32
    """Return an even sample of the text that `run` holds out, _SAMPLED_TOKENS at most or one block,
    or None if the run has no token files, or no record of this version of cdgen names them."""
    try:
        record = read_record(run)
    except StorageError:
        return None
    if record is None:
        return None
    made = record.tokenizer_sha256 or str(record.tokenizer)
    tokens = find(run / "tokens", real_key(record, record.source_sha256, made))
    if tokens is None:
        return None
    held_out = np.concatenate([b for name, b in tokens.arrays.items() if name != "real"])
    return held_out[:: -(-held_out.size // _SAMPLED_TOKENS)]


@torch.inference_mode()
def excess_loss(
    shape: DecoderConfig,
    tensors: dict[str, torch.Tensor],  # GOOD's
    source: BadSource,
    blocks: np.ndarray,  # [blocks, T] int32, from `pack`
) -> float:
    """Return the mean loss of BAD minus that of GOOD, in nats per token."""
    decoder = Decoder(
        shape,
        [tensors],
        BATCH_BLOCKS,
        blocks.shape[1],
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        dropout=Dropout(source.dropout, _NOISE_SEED) if source.dropout else None,
        window=source.window or None,
        exit_layers=source.layers or None,
    )
    excess, count = 0.0, 0
    for start in range(0, len(blocks), BATCH_BLOCKS):
        batch = torch.from_numpy(blocks[start : start + BATCH_BLOCKS].astype(np.int64))
        tokens, labels = read_and_taught(batch.to(decoder.device))
        ids = torch.arange(start, start + len(batch), device=decoder.device)
        hidden = hidden_states(decoder, tokens, ids)  # [2, N, T, D]
        logits = decoder.logits(hidden.flatten(0, 2))[:, : shape.vocab_size]
        good, bad = logits.view(*hidden.shape[:3], -1)
        excess += summed_loss(bad, labels) - summed_loss(good, labels)
        count += int((labels[:, 1:] != -100).sum())
    return excess / count
