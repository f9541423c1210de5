"""Sends states to Cosmos DB and remembers what was delivered until the cursor has moved.

Without that memory a store that throttles would never be done with a page: every repetition would spend the allowance
on reading again what the one before had written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from core.cosmos.publish import Postponed
from core.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from core.cosmos.publish import Outcome, Publish
    from core.identity import Identity
    from core.stamp import Stamp


class PassTooOldError(TransientError):
    """The pass slept so long that its states may be older than the tombstones that would refuse them; read again."""


class Sink(Protocol):
    """The guarded write (core.cosmos.guarded.GuardedWriter)."""

    async def write(
        self,
        items: Sequence[Publish],
        *,
        check: Callable[[], None],
        on_outcome: Callable[[Publish, Outcome], None],
        backlog: bool = False,
    ) -> list[Outcome]:
        """Write states, never an older one over a newer one; repeating it is harmless.

        Args:
            items: in any order.
            check: called just before every request that writes; what it raises ends the write.
            on_outcome: called as each outcome is known.
            backlog: whether they may wait behind fresher ones.

        Raises:
            TransientError: infrastructure failed.
            ConflictError: a state is of an epoch that is over.

        """
        ...


class Delivery:
    """Sends the states of one page after the other.

    Args:
        sink: the guarded write.
        max_age_s: how old a loaded state may be when it is sent, in seconds.
        clock: seconds that count suspend.

    """

    def __init__(self, sink: Sink, max_age_s: float, clock: Callable[[], float]) -> None:
        self._sink = sink
        self._max_age_s = max_age_s
        self._clock = clock
        self._delivered: dict[Identity, tuple[Stamp, Outcome]] = {}

    async def send(
        self,
        items: Sequence[Publish],
        loaded_at: float,
        check: Callable[[], None],
        on_delivered: Callable[[Identity, Outcome], None],
        *,
        backlog: bool,
    ) -> dict[Identity, Outcome]:
        """Send states, one per identity, that were loaded at `loaded_at`; return what became of each.

        `on_delivered` is called as each arrives. May be repeated: what was delivered before is not sent again.

        Raises:
            PassTooOldError: the states are too old to be sent; load them again.
            TransientError: infrastructure failed, or `check` did; what was under way has ended, the rest was not sent.

        """

        def may_send() -> None:  # as late as possible: the process may have been stopped at any moment
            self._check_age(loaded_at)
            check()

        delivered = self._delivered

        def remember(item: Publish, outcome: Outcome) -> None:
            identity = item.identity
            if not isinstance(outcome, Postponed):
                delivered[identity] = (item.stamp, outcome)
            on_delivered(identity, outcome)

        known: dict[Identity, Outcome] = {}
        if delivered:
            known = {item.identity: delivered[item.identity][1] for item in items if self._is_delivered(item)}
        unsent = [item for item in items if item.identity not in known] if known else items
        may_send()
        outcomes = await self._sink.write(unsent, check=may_send, on_outcome=remember, backlog=backlog)
        return known | {item.identity: outcome for item, outcome in zip(unsent, outcomes, strict=True)}

    def forget(self, identities: Iterable[Identity]) -> None:
        """Drop what is remembered of documents: a cursor has moved past them."""
        for identity in identities:
            self._delivered.pop(identity, None)

    def forget_all(self) -> None:
        """Drop all of it."""
        self._delivered.clear()

    def _check_age(self, loaded_at: float) -> None:
        if self._clock() - loaded_at > self._max_age_s:
            msg = f"the pass is older than {self._max_age_s:g} s, half the life of a tombstone"
            raise PassTooOldError(msg)

    def _is_delivered(self, item: Publish) -> bool:
        known = self._delivered.get(item.identity)
        return known is not None and known[0] == item.stamp
