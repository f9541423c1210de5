"""Visits every state that a model can come to, and says how it came to one that breaks a promise."""

from __future__ import annotations

import gc
from collections import deque
from typing import TYPE_CHECKING

from tests.model.world import POSTGRES, State, Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.model.protocol import Protocol


def explore(protocol: Protocol, start: State, most: int = 2_000_000) -> tuple[int, Violation | None]:
    """Return how many states there are, and the shortest way to one that breaks a promise.

    Raises:
        RuntimeError: there are more states than `most`: nothing was proved.

    """
    gc.collect()
    gc.disable()  # nothing of this is garbage, and there is much to look through
    try:
        return _explore(protocol, start, most)
    finally:
        gc.enable()


def _explore(protocol: Protocol, start: State, most: int) -> tuple[int, Violation | None]:
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        following = list(protocol.following(state))
        if (promise := broken_in(state, at_rest=_is_at_rest(state))) is not None:
            return len(came_from), Violation(promise, _trace(came_from, state))
        for name, after in following:
            if (promise := broken_by(state, after)) is not None:
                return len(came_from), Violation(promise, (*_trace(came_from, state), name))
            if after not in came_from:
                came_from[after] = state, name
                waiting.append(after)
        if len(came_from) > most:
            msg = f"more than {most} states"
            raise RuntimeError(msg)
    return len(came_from), None


def broken_by(before: State, after: State) -> str | None:
    """Return the promise that a step breaks."""
    if before.primary != after.primary:
        return None
    old, new = ((s.row if s.primary == POSTGRES else s.doc) for s in (before, after))
    if old is not None and new is not None and (new.epoch, new.version) < (old.epoch, old.version):
        return "a reader of the primary sees the document go backwards"
    return None


def broken_in(s: State, *, at_rest: bool) -> str | None:
    """Return the promise that a state breaks."""
    primary = s.row if s.primary == POSTGRES else s.doc
    held = set(primary.writes) if primary is not None else set()
    if missing := s.acked - held:
        # Without tombstones a deleted document is simply not there.
        if primary is None and any(one.startswith("delete") for one in s.acked):
            return None
        return f"acknowledged, and not in the primary: {', '.join(sorted(missing))}"
    if not at_rest:
        return None
    live = [one is not None and not one.deleted for one in (s.row, s.doc)]
    if live[0] != live[1]:
        return "deleted in one store, and there in the other"
    if s.row is not None and s.doc is not None and s.row.writes != s.doc.writes:
        return "the stores are different at the end"
    return None


def _is_at_rest(s: State) -> bool:
    """Whether mirror and relay have nothing left to do, nobody writes and nothing is under way."""
    idle = all(one.at == "idle" for one in s.writers) and not s.net and s.switch is None
    follows = s.doc is None or s.doc.etag <= s.feed_at
    return idle and follows and s.mirror is None and s.relay is None and (s.primary != POSTGRES or s.cursor >= s.outbox)


def _trace(came_from: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    names: list[str] = []
    step: Callable[[State], tuple[State, str] | None] = came_from.__getitem__
    while (before := step(state)) is not None:
        state, name = before
        names.append(name)
    return tuple(reversed(names))
