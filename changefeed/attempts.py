"""Makes one attempt of a handler at an event, and decides what follows a failure: another one later, or the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError

from changefeed.handling import Constraints, SpoiledTransactionError, call, passes
from changefeed.inbox_chains import Dead, Waiting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from changefeed.handling import Failure
    from changefeed.inbox import Arrival, Key
    from changefeed.inbox_chains import Patience
    from core.handlers import Handlers

log = structlog.get_logger()

T = TypeVar("T")


@dataclass(slots=True)
class Caution:
    """What a transaction that failed has taught: whom not to call again, and that constraints wait for the commit."""

    spoiled: dict[Key, Failure] = field(default_factory=dict)
    constraints: Constraints = Constraints.AS_DECLARED


class Attempts:
    """What to call, for how many seconds, and how often."""

    def __init__(self, handlers: Handlers, limit_s: float, patience: Patience) -> None:
        self._handlers = handlers
        self._limit_s = limit_s
        self._patience = patience

    async def make(
        self, connection: AsyncConnection, arrival: Arrival, attempts: int, caution: Caution
    ) -> Waiting | Dead | None:
        """Hand an event over; return what is to become of it, None if it was handled.

        Args:
            connection: in the transaction.
            arrival: the event, and the name of its handler.
            attempts: the failures before this one that counted.
            caution: of the attempts at this transaction before.

        Raises:
            SpoiledTransactionError: see changefeed.handling.call.

        """
        failure = caution.spoiled.get(arrival.key)
        if failure is None:
            handler = self._handlers.named(arrival.handler)
            failure = await call(handler, arrival, attempts + 1, connection, self._limit_s, caution.constraints)
        if failure is None:
            return None
        after = attempts + failure.counts
        is_dead = failure.counts and after >= self._patience.attempts
        log.warning(
            "consumers.event_dead_lettered" if is_dead else "consumers.event_failed",
            handler=arrival.handler,
            event_id=arrival.event_id,
            error=failure.error,
            attempts=after,
        )
        return (Dead if is_dead else Waiting)(arrival, failure.reason, after)


async def insisting(step: Callable[[Caution], Awaitable[T]]) -> T:
    """Take a step that is one transaction, again without each call that spoils it; an outage ends that.

    What fails only at the commit is a constraint that was deferred: then each call is made to answer for its own.
    """
    caution = Caution()
    while True:
        try:
            return await step(caution)
        except SpoiledTransactionError as error:
            caution.spoiled[error.key] = error.failure
        except DBAPIError as error:
            if passes(error) or caution.constraints is Constraints.CHECKED:
                raise
            caution.constraints = Constraints.CHECKED
