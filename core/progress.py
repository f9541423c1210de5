"""Says how far a long pass is, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of one step is done: `done` of `total` (0: unknown), in what the step's name says."""

    step: str
    done: int
    total: int
