"""What a relay knows of itself, for readiness and metrics: a value, taken without asking any store."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RelayHealth:
    """How a relay is right now. Times are in seconds.

    `slots` are those it holds, `lease_left_s` how long it may still send for them without a heartbeat (zero or less: it
    sends nothing). `oldest_unsent_s` is the age of the oldest message that it has read and not delivered yet, zero when
    there is none, None before its first pass. `pass_age_s` is how long ago it last finished a pass, None before the
    first. `last_error` is the class of what it is waiting for, None while all is well. `waits_for` says in words why
    it sends nothing though it could (a phase, a pin), None otherwise.
    """

    slots: tuple[int, ...]
    lease_left_s: float
    oldest_unsent_s: float | None
    pass_age_s: float | None
    last_error: str | None
    waits_for: str | None = None
    is_stopping: bool = False
