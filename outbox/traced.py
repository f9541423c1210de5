"""Follows what is sent to Cosmos DB in the traces of its writers: each state's span is the child of its newest write.

A state stands for all writes that the messages of a page name; the others are linked to its span. What is recorded is
what was decided: of a page that infrastructure failed nothing is, until it is repeated.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from opentelemetry.trace import SpanKind

from core.cosmos.event_sink import Held
from core.cosmos.publish import Postponed, Refused, Superseded, Unchanged, Written
from core.envelope import put_trace
from core.tracing import PUBLISH, PUBLISH_EVENT, is_tracing, link_to, record_step

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opentelemetry.trace import Link

    from core.cosmos.event_documents import EventMessage
    from core.cosmos.event_sink import EventOutcome
    from core.cosmos.publish import Outcome, Publish
    from core.identity import Identity

MOST_LINKS: Final = 32
"""How many writes one span is linked to at most, the newest ones."""

_OUTCOMES: Final = {
    Written: "written",
    Unchanged: "unchanged",
    Superseded: "superseded",
    Refused: "refused",
    Postponed: "postponed",
    Held: "held",
}


class Reference(Protocol):
    """What names a state to be sent: outbox.log_reader.Message, outbox.parking.DueState."""

    @property
    def identity(self) -> Identity:
        """Whose state."""
        ...

    @property
    def traceparent(self) -> str | None:
        """The trace of its writer, whatever that said."""
        ...


class TracedStates:
    """The states that are sent together.

    Args:
        messages: what names them, in the order of the log.

    """

    def __init__(self, messages: Iterable[Reference]) -> None:
        self._writes: dict[Identity, dict[str, None]] = {}
        self._began = time.time_ns()
        for message in messages:
            if message.traceparent is not None:
                writes = self._writes.setdefault(message.identity, {})
                writes.pop(message.traceparent, None)
                writes[message.traceparent] = None

    def newest(self, identity: Identity) -> str | None:
        """Return the newest trace that was named for a state, None if none was."""
        return next(reversed(self._writes[identity])) if identity in self._writes else None

    def name_in(self, items: Iterable[Publish]) -> None:
        """Name in each document the trace of its newest write, as far as that one had a trace."""
        if self._writes:
            for item in items:
                put_trace(item.document, self.newest(item.identity))

    def ended(self, identity: Identity, outcome: Outcome) -> None:
        """Record what became of a state."""
        if not self._writes or identity not in self._writes or not is_tracing():
            return
        newest, *older = reversed(self._writes[identity])
        links = [link for parent in older[:MOST_LINKS] if (link := link_to(parent)) is not None]
        _record(PUBLISH, newest, self._began, identity, outcome, {}, links)


def record_events(events: Iterable[EventMessage], outcomes: Iterable[EventOutcome], began: int) -> None:
    """Record what became of events that were sent from `began` on, in nanoseconds since 1970."""
    if is_tracing():
        for event, outcome in zip(events, outcomes, strict=True):
            if not isinstance(outcome, Held):
                of = {"crossfeed.event_id": event.event_id}
                _record(PUBLISH_EVENT, event.traceparent, began, event.identity, outcome, of)


def _record(  # noqa: PLR0913, PLR0917 - the facts of a span
    name: str,
    parent: str | None,
    began: int,
    identity: Identity,
    outcome: Outcome | EventOutcome,
    more: dict[str, str],
    links: Sequence[Link] = (),
) -> None:
    said = _OUTCOMES[type(outcome)]
    record_step(
        name,
        parent,
        began,
        {"crossfeed.entity": identity.entity, "crossfeed.id": identity.id, "crossfeed.outcome": said, **more},
        links=links,
        kind=SpanKind.PRODUCER,
        error=said if isinstance(outcome, Refused | Postponed) else None,
    )
