"""How many threads an engine computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdgen.engine.slot_engine import SlotEngine
    from cdgen.engine.wave_engine import WaveEngine


@contextmanager
def useful_threads(engine: SlotEngine | WaveEngine) -> Iterator[None]:
    """Use one thread for a tiny model of the lean decoders, whose bits do not depend on threads."""
    import torch

    before = torch.get_num_threads()
    if engine.is_tiny:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
