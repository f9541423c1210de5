"""Registers what a service does when something has happened: handlers of domain events, by the class of the event.

    handlers = Handlers(EVENTS)

    @handlers.on(AccountRegistered)
    async def welcome(received: Received[AccountRegistered], connection: AsyncConnection) -> None:
        await connection.execute(welcomes.insert().values(id=received.aggregate.id, email=received.event.email))

`CROSSFEED_CONSUMERS=package.module:handlers` names them for every process that runs them (changefeed.consumers).
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from core.errors import DocumentRefusedError, MappingError
from core.events import Event, EventRegistry, aggregate_of
from core.tracing import handling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.content import Document
    from core.identity import Identity

E = TypeVar("E", bound=Event)
E_co = TypeVar("E_co", bound=Event, covariant=True)

_NAME: Final = re.compile(r"[\w.-]{1,200}", re.ASCII)


class Start(Enum):
    """Which events a handler gets that nobody has run before; it is recorded in Postgres when it first runs."""

    BEGINNING = "beginning"
    """All that are in the container of events."""
    NOW = "now"
    """Those that come into the container from then on, by Postgres' clock and to the second."""


@dataclass(frozen=True, slots=True)
class Received(Generic[E_co]):
    """One event, as a handler gets it.

    Args:
        event: of the class that the handler is registered for, whatever version was written.
        id: the event's id, unique among the events of its aggregate.
        subject: the aggregate as the envelope names it, `Account/acc-1`.
        time: when it was recorded, by the clock of who recorded it.
        traceparent: the W3C trace context of who recorded it, if there was one.
        attempt: 1 at the first time, 2 after one failure that counted.
        envelope: the whole CloudEvents envelope.

    """

    event: E_co
    id: str
    subject: str
    time: datetime
    traceparent: str | None
    attempt: int
    envelope: Document

    @property
    def aggregate(self) -> Identity:
        """Whose event it is; for a key over 2 kB the id is a digest, as in the subject."""
        return aggregate_of(self.subject)


Handler = Callable[[Received[E], "AsyncConnection"], Awaitable[None]]
"""What is called with each event, once. What it does in Postgres it does through the connection, without ending the
transaction: so it is committed with the note that this handler has had this event, or not at all. What it does
elsewhere may happen again after a crash. While Cosmos DB is the primary, mapped tables refuse it.

It raises TransientError for what is not the event's fault; after any other error of its own the event has failed, is
tried again later, and is a dead letter in the end. It never blocks the event loop, which keeps the process's leases.
"""


@dataclass(slots=True)
class Registered:
    """One handler: its name, where it starts, and what is called for each type of event."""

    name: str
    start: Start
    calls: dict[str, tuple[Handler[Any], EventRegistry]] = field(default_factory=dict)

    def takes(self, handler: Handler[Any]) -> bool:
        """Whether a function may be registered under its name: it has none yet, or this very one."""
        return all(known is handler for known, _ in self.calls.values())

    async def handle(self, envelope: Document, attempt: int, connection: AsyncConnection) -> None:
        """Read an event of one of its types and hand it over.

        Raises:
            DocumentRefusedError: it is no event that Crossfeed recorded, or does not fit its class.
            MappingError: it was written by a newer version of this program.
            Exception: whatever the handler raises.

        """
        handler, events = self.calls[envelope["type"]]
        with handling(self.name, envelope.get("traceparent"), attempt):
            await handler(_received(envelope, events, attempt), connection)


class Handlers:
    """The handlers of a service; those of one event are independent of each other.

    Args:
        events: knows the events with their upcasters; without it each class that is registered is at its first version.

    """

    def __init__(self, events: EventRegistry | None = None) -> None:
        self._events = events
        self._by_name: dict[str, Registered] = {}

    def on(
        self, event_class: type[E], *, name: str | None = None, start: Start = Start.BEGINNING
    ) -> Callable[[Handler[E]], Handler[E]]:
        """Return the decorator that registers a coroutine function as a handler of an event.

        One function may take several events, each aggregate's in their order: `handlers.on(A)(f); handlers.on(B)(f)`.
        An event that it takes later than others comes from then on; for its past, register under a new name.

        Args:
            event_class: the event.
            name: what Postgres remembers the handler by, letters, digits, `_ . -`; the function's own if not given.
                Under a new name it is a new handler, which has had no event.
            start: which events it gets if it is new.

        Raises:
            MappingError: the name is taken, the event unknown, or what is registered is no coroutine function.

        """
        events = self._events_with(event_class)

        def register(handler: Handler[E]) -> Handler[E]:
            called = str(name or getattr(handler, "__name__", ""))
            if not inspect.iscoroutinefunction(handler):
                raise MappingError(f"the handler {called!r} is no coroutine function: async def …")
            if not _NAME.fullmatch(called):
                raise MappingError(f"a handler cannot be called {called!r}: letters, digits, _ . - and at most 200")
            known = self._by_name.setdefault(called, Registered(called, start))
            event_type = str(event_class.event_name)
            if known.start is not start or event_type in known.calls or not known.takes(handler):
                raise MappingError(f"two handlers are called {called!r}: name one, on(…, name=…)")
            known.calls[event_type] = (handler, events)
            return handler

        return register

    def __iter__(self) -> Iterator[Registered]:
        return iter(self._by_name.values())

    def named(self, name: str) -> Registered:
        """Return the handler of this name, which is registered."""
        return self._by_name[name]

    def of(self, event_type: object) -> list[Registered]:
        """Return the handlers of a type of event, in the order of their registration."""
        if not isinstance(event_type, str):
            return []
        return [handler for handler in self._by_name.values() if event_type in handler.calls]

    @property
    def feed_name(self) -> str:
        """The name of the leases and checkpoints with which these handlers read the container of events.

        It changes when a handler joins that starts at the beginning: the container is then read from its beginning, and
        the others know what they have had.
        """
        names = sorted(handler.name for handler in self if handler.start is Start.BEGINNING)
        return f"consumers-{hashlib.blake2b(' '.join(names).encode(), digest_size=6).hexdigest()}"

    def _events_with(self, event_class: type[Event]) -> EventRegistry:
        if self._events is None:
            return EventRegistry([event_class])
        if not self._events.holds(event_class):
            raise MappingError(f"the registry of events does not hold {event_class.__name__}")
        return self._events


def _received(envelope: Document, events: EventRegistry, attempt: int) -> Received[Event]:
    event = events.event(envelope)
    parent = envelope.get("traceparent")
    try:
        time = datetime.fromisoformat(envelope["time"])
        return Received(
            event=event,
            id=str(envelope["id"]),
            subject=str(envelope["subject"]),
            time=time,
            traceparent=parent if isinstance(parent, str) else None,
            attempt=attempt,
            envelope=envelope,
        )
    except (KeyError, TypeError, ValueError):
        raise DocumentRefusedError("the envelope lacks an id, a subject or a time") from None
