"""Seconds that also pass while the machine is suspended, so that a process knows how long it was away."""

from __future__ import annotations

import time
from typing import Final

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""CLOCK_BOOTTIME is Linux's; on macOS CLOCK_MONOTONIC counts the time asleep, and time.monotonic() does not."""


def boot_clock() -> float:
    """Return seconds since some moment in the past; only differences mean anything."""
    return time.clock_gettime(_CLOCK)
