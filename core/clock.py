"""Seconds that also pass while the machine is suspended, so that a process knows how long it was away."""

from __future__ import annotations

import time
from typing import Final

_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


def boot_clock() -> float:
    """Return seconds since some moment in the past; only differences mean anything. Counts suspend on Linux."""
    return time.clock_gettime(_BOOTTIME) if _BOOTTIME is not None else time.monotonic()
