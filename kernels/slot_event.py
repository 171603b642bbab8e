"""The outcome of a step for one slot of the running batch."""

from __future__ import annotations

from enum import IntEnum


class SlotEvent(IntEnum):
    NOTHING = 0  # the slot is empty, or its prompt is not used up
    DRAWN = 1
    EOS = 2  # drawn, and it ends the sequence
    LENGTH = 3  # drawn, and the sequence has reached its limit
    QUARANTINED = 4  # could not be drawn
