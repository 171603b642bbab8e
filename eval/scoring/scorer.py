"""Log-probabilities of token spans under a causal language model, in fp32 with fp64 sums.

Sequences that begin alike share the computation of their common tokens (trie.py). A model that
cannot attend along a trie is scored one sequence per row; results.json says which way it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface

from cdgen.checkpoints.pretrained import load_causal_lm
from cdgen.errors import ModelError, UsageError
from cdgen.eval.scoring.spans import Spans, spans_of
from cdgen.eval.scoring.trie import Batch, Trie, batches
from cdgen.kernels.tree_attention import Forest, tree_attention

# Tokens in a forward pass: enough for efficient products, few enough for activations to stay in
# cache.
_BATCH_TOKENS = {"cpu": 1024, "cuda": 4096}
_LOGITS_AT_ONCE = 2**22  # 16 MiB in fp32, per thread
# Largest difference between trie and rows: both are fp32, but they sum in different orders.
_TOLERANCE = 1e-3

Advance = Callable[[int, int], None]  # tokens done, tokens in all


def _no_display(done: int, total: int) -> None:
    """Ignore the progress."""


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,  # [1, H, N, Dh]
    key: torch.Tensor,  # [1, Hkv, N, Dh]
    value: torch.Tensor,  # [1, Hkv, N, Dh]
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    forest: Forest,
    **others: Any,
) -> tuple[torch.Tensor, None]:  # [1, N, H, Dh]
    """Call `tree_attention` with the arguments that transformers gives an attention function."""
    for name in ("softcap", "s_aux", "position_bias", "head_mask"):
        if others.get(name) is not None:
            raise NotImplementedError(f"tree attention does not support {name}")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return tree_attention(q, k, v, forest, scale=scale)[None], None


def _normaliser(logits: torch.Tensor) -> torch.Tensor:  # [..., V] -> [...]
    """Return log sum exp; NaN instead of infinity, under which all candidates would tie at -inf."""
    total = logits.logsumexp(-1)
    return torch.where(total.isfinite(), total, torch.nan)


AttentionInterface.register("cdgen_tree", _attend)


class InvalidModel(ModelError):
    """The checkpoint gives NaN or infinite logits: no score of it can be trusted."""


class Scorer:
    """A checkpoint on a device, ready to score: along a trie if `tree`, otherwise row by row."""

    def __init__(self, folder: Path, device: str, batch_tokens: int | None = None) -> None:
        model: Any = load_causal_lm(folder, torch.float32, device)
        self.folder, self.model = folder, model
        self.device = torch.device(device)
        self.vocab_size: int = model.config.get_text_config().vocab_size
        self.batch_tokens = batch_tokens or _BATCH_TOKENS[self.device.type]
        self.own_attention: str = model.config._attn_implementation
        # These choose frequencies by the longest text of a forward pass: score one text at a time.
        rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
        self.by_length = rope.get("rope_type") in ("dynamic", "longrope")
        self.tree = not self.by_length and self._attends_along_a_trie()

    def span_sums(self, spans: Spans, advance: Advance = _no_display) -> np.ndarray:  # [n] float64
        """Return the log-probability of each span given the tokens before it, in nats.

        Raises InvalidModel if logits are NaN or overflow, UsageError for a token that the model has
        no row for: a tokenizer may have more tokens than its model.
        """
        if (highest := int(spans.tokens.max(initial=0))) >= self.vocab_size:
            raise UsageError(
                f"a text holds token {highest}, but {self.folder} has {self.vocab_size} rows: take"
                " that token out of the texts"
            )
        if self.tree and not self._windowed(int(spans.lengths.max())):
            sums = spans.trie.span_sums(self._trie_log_probs(spans.trie, advance))
        else:
            sums = self._row_sums(spans, advance)
        if np.isnan(sums).any():
            raise InvalidModel(
                f"{self.folder}: NaN or overflowing logits; this checkpoint is not scored"
            )
        return sums

    def _trie_log_probs(self, trie: Trie, advance: Advance) -> np.ndarray:  # [nodes] float64
        """Return log p of each node given those above it; 0 for roots."""
        self._attend_by("cdgen_tree")
        out, done = np.zeros(len(trie.tokens)), 0
        total = int(np.count_nonzero(trie.parents >= 0))
        score = partial(self._children_log_probs, trie)
        for batch, log_probs in self._side_by_side(score, batches(trie, self.batch_tokens)):
            out[batch.children] = log_probs
            done += len(batch.children)
            advance(done, total)
        return out

    def _side_by_side(
        self, score: Callable[[Batch], np.ndarray], work: Iterator[Batch]
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        """Yield each batch with its scores, in order.

        On a CPU every core takes a batch of its own: such small ops gain little from a second
        thread each (docs/decisions.md).
        """
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        if threads == 1:
            yield from ((batch, score(batch)) for batch in work)
            return
        waiting: deque[tuple[Batch, Future[np.ndarray]]] = deque()
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for batch in work:
                waiting.append((batch, pool.submit(score, batch)))
                if len(waiting) > 2 * threads:
                    batch, result = waiting.popleft()
                    yield batch, result.result()
            yield from ((batch, result.result()) for batch, result in waiting)

    @torch.inference_mode()
    def _children_log_probs(self, trie: Trie, batch: Batch) -> np.ndarray:  # [children] float64
        hidden = self.model.base_model(
            input_ids=self._tensor(trie.tokens[batch.nodes])[None],
            position_ids=self._tensor(trie.depths[batch.nodes])[None],
            use_cache=False,
            forest=Forest(self._tensor(batch.parents)),
        ).last_hidden_state[0, batch.context :]
        targets, rows = self._tensor(trie.tokens[batch.children]), self._tensor(batch.rows)
        head = self.model.get_output_embeddings()
        at_once = max(1, _LOGITS_AT_ONCE // self.vocab_size)
        parts = []
        for start in range(0, len(hidden), at_once):
            logits = head(hidden[start : start + at_once]).float()
            begin, end = np.searchsorted(batch.rows, [start, start + at_once]).tolist()
            row = rows[begin:end] - start
            parts.append(logits[row, targets[begin:end]] - _normaliser(logits)[row])
        return torch.cat(parts).double().cpu().numpy()

    @torch.inference_mode()
    def _row_sums(self, spans: Spans, advance: Advance) -> np.ndarray:  # [n] float64
        self._attend_by(self.own_attention)
        out, done, lengths = np.zeros(len(spans)), 0, spans.lengths
        for block in self._blocks_of_like_length(lengths):
            width = int(lengths[block[0]])
            ids = np.zeros((len(block), width), np.int64)
            for row, index in enumerate(block):
                ids[row, : lengths[index]] = spans.sequence(index)
            log_probs = self._row_log_probs(self._tensor(ids))
            column = np.arange(1, width)
            first, last = spans.first[block][:, None], spans.last[block][:, None]
            out[block] = np.where((column >= first) & (column <= last), log_probs, 0.0).sum(1)
            done += int(lengths[block].sum())
            advance(done, len(spans.tokens))
        return out

    def _row_log_probs(self, tokens: torch.Tensor) -> np.ndarray:  # [B, T] -> [B, T - 1] float64
        logits = self.model(input_ids=tokens, use_cache=False).logits[:, :-1]
        target = logits.gather(-1, tokens[:, 1:, None])[..., 0].float()
        at_once = max(1, _LOGITS_AT_ONCE // self.vocab_size // max(1, logits.shape[1]))
        totals = [_normaliser(rows.float()) for rows in logits.split(at_once)]
        return (target - torch.cat(totals)).double().cpu().numpy()

    def _blocks_of_like_length(self, lengths: np.ndarray) -> list[list[int]]:
        """Group the sequences into blocks of rows, longest first; padding on the right changes
        nothing to its left."""
        tokens = 1 if self.by_length else max(self.batch_tokens, 1)
        blocks: list[list[int]] = []
        for index in np.argsort(-lengths, kind="stable").tolist():
            if not blocks or (len(blocks[-1]) + 1) * lengths[blocks[-1][0]] > tokens:
                blocks.append([])
            blocks[-1].append(index)
        return blocks

    def _attends_along_a_trie(self) -> bool:
        """Return whether the model gives the same log-probabilities along a trie as row by row.

        It is tried on a few sequences: an architecture may need what a trie cannot give
        (recurrence, biases by distance), or may change its logits after the head.
        """
        rng = np.random.default_rng(0)
        trunk = rng.integers(self.vocab_size, size=12)
        ends = [rng.integers(self.vocab_size, size=6) for _ in range(5)]
        cuts = zip((1, 4, 4, 11, 12), ends, strict=True)
        probe = spans_of(
            [np.append(trunk[:cut], end).astype(np.int32) for cut, end in cuts],
            np.ones(5, np.int64),
        )
        expected = self._row_sums(probe, _no_display)
        try:
            found = probe.trie.span_sums(self._trie_log_probs(probe.trie, _no_display))
        except (TypeError, ValueError, NotImplementedError, AttributeError, KeyError):
            return False
        return bool(np.allclose(found, expected, rtol=0, atol=_TOLERANCE, equal_nan=True))

    def _attend_by(self, attention: str) -> None:
        if self.model.config._attn_implementation != attention:
            self.model.set_attn_implementation(attention)

    def _windowed(self, longest: int) -> bool:
        """Return whether some layer sees only a window of the longest sequence."""
        config = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        used = getattr(config, "use_sliding_window", True)
        return bool(used and window and longest > window)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)
