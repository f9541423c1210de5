"""What can be registered as a handler of events, and what cannot; the types are those that mypy checks here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core import Event, EventRegistry, Handlers, Identity, MappingError, Received, Settings, Start
from core.domain.welcomes import HANDLERS
from core.errors import ConfigurationError
from core.events import aggregate_of, subject_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


class Joined(Event, name="joined"):
    who: str


class Left(Event, name="left", version=2):
    who: str


async def count(received: Received[Joined] | Received[Left], connection: AsyncConnection) -> None:
    """Take both events."""
    received.event.who.upper()


async def greet(received: Received[Joined], connection: AsyncConnection) -> None:
    """Take one."""


def names(handlers: Handlers, event_type: object) -> list[str]:
    return [handler.name for handler in handlers.of(event_type)]


def test_handlers_are_found_by_the_type_of_the_event_in_the_order_of_their_registration() -> None:
    handlers = Handlers(EventRegistry([Joined, Left], {("left", 1): lambda data: data}))
    handlers.on(Joined)(count)
    handlers.on(Left)(count)
    handlers.on(Joined, name="a.welcome-1")(greet)
    assert names(handlers, "joined") == ["count", "a.welcome-1"]
    assert names(handlers, "left") == ["count"]
    assert names(handlers, "other") == names(handlers, None) == names(handlers, ["joined"]) == []


def test_a_decorated_function_is_still_itself() -> None:
    assert Handlers().on(Joined)(greet) is greet


def test_what_cannot_be_registered_is_named() -> None:
    handlers = Handlers()
    handlers.on(Joined)(greet)

    def plain(received: Received[Joined], connection: AsyncConnection) -> None:
        """Return nothing that could be awaited."""

    with pytest.raises(MappingError, match="'plain' is no coroutine function"):
        handlers.on(Joined)(plain)  # type: ignore[arg-type]
    with pytest.raises(MappingError, match="two handlers are called 'greet'"):
        handlers.on(Joined)(greet)
    with pytest.raises(MappingError, match="two handlers are called 'greet'"):
        handlers.on(Joined, name="greet")(count)
    with pytest.raises(MappingError, match="cannot be called 'a:b'"):
        handlers.on(Joined, name="a:b")(greet)
    with pytest.raises(MappingError, match="version 1 has no upcaster"):
        handlers.on(Left)(count)
    with pytest.raises(MappingError, match="the registry of events does not hold Joined"):
        Handlers(EventRegistry([])).on(Joined)


def test_one_name_starts_at_one_place() -> None:
    handlers = Handlers(EventRegistry([Joined, Left], {("left", 1): lambda data: data}))
    handlers.on(Joined)(count)
    with pytest.raises(MappingError, match="two handlers are called 'count'"):
        handlers.on(Left, start=Start.NOW)(count)


def test_only_a_handler_that_joins_at_the_beginning_makes_the_container_be_read_again() -> None:
    handlers = Handlers()
    handlers.on(Joined)(greet)
    before = handlers.feed_name
    handlers.on(Joined, name="later", start=Start.NOW)(count)
    assert handlers.feed_name == before
    handlers.on(Joined, name="all")(count)
    assert handlers.feed_name != before


@pytest.mark.parametrize(
    "identity",
    [
        Identity.of("Account", ["acc-1"], "acc-1"),
        Identity.of("GameSession", ["acc-1"], "s-1"),
        Identity.of("Order", ["a/b", 7], "o"),
        Identity.of("Order", [None], "7d444840-9dc0-11d1-b245-5ffdce74fad2"),
    ],
)
def test_an_aggregate_is_read_from_the_subject_of_its_events(identity: Identity) -> None:
    assert aggregate_of(subject_of(identity)) == identity


def test_settings_name_the_handlers() -> None:
    assert Settings.load(consumers=None).load_consumers() is None
    assert Settings.load(consumers="core.domain.welcomes:HANDLERS").load_consumers() is HANDLERS


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("core.domain.welcomes", "is not of the form package.module:attribute"),
        ("core.nothing:HANDLERS", "cannot import core.nothing"),
        ("core.domain.welcomes:OTHERS", "has no such attribute"),
        ("core.domain.welcomes:welcome", "is no Handlers with a handler registered"),
        ("tests.unit.test_handlers:NOBODY", "is no Handlers with a handler registered"),
    ],
)
def test_settings_that_name_no_handlers_say_so(named: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"CROSSFEED_CONSUMERS='{named}'.*{why}"):
        Settings.load(consumers=named).load_consumers()


NOBODY = Handlers()
