"""What the tests of consumers share: events as their container shows them, a diary that handlers write, and a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from changefeed.consumers import Consumers
from core.events import Event, EventMaker
from core.handlers import Handlers, Received
from core.identity import Identity
from core.postgres.dead_letter_search import Selection, count
from functions.letters import Act, Report, act_on

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from changefeed.ports import Acknowledge
    from core.content import Document
    from core.settings import Settings

    Trouble = Callable[[str, Received["Said"], AsyncConnection], Awaitable[None]]

EVENTS = "crossfeed-events"
DIARY = """
    CREATE TABLE IF NOT EXISTS diary (place bigserial PRIMARY KEY, handler text, subject text, said integer,
        attempt integer)
"""
"""Nothing in it keeps anything from being written twice."""


class Said(Event, name="said"):
    """The number says when it was recorded."""

    number: int


class Left(Event, name="left"):
    """Nobody handles it."""


def document(number: int, of: str = "a", *, ts: int = 1_000, event: Event | None = None, **others: Any) -> Document:
    """An event as the feed shows it: what aggregate `of` said, its place in the log the number."""
    maker = EventMaker(clock=lambda: float(ts), new_id=lambda: f"{of}-{number}")
    made = maker.envelope(event or Said(number=number), Identity.of("Account", [of], of))
    return {**made, "sequence": f"{number:020}", "_ts": ts, "_lsn": number, "_etag": f'"{number}"', **others}


async def write(connection: AsyncConnection, handler: str, received: Received[Said]) -> None:
    """Write to the diary that a handler was called."""
    await connection.exec_driver_sql(
        "INSERT INTO diary (handler, subject, said, attempt) VALUES (%(handler)s, %(id)s, %(said)s, %(attempt)s)",
        {
            "handler": handler,
            "id": received.aggregate.id,
            "said": received.event.number,
            "attempt": received.attempt,
        },
    )


async def no_trouble(name: str, received: Received[Said], connection: AsyncConnection) -> None:
    """Let every handler succeed."""


def failing_at(*numbers: int, handler: str = "one", error: BaseException | None = None) -> Trouble:
    """Let a handler fail at these."""

    async def trouble(name: str, received: Received[Said], connection: AsyncConnection) -> None:
        if name == handler and received.event.number in numbers:
            raise error or ValueError("it says no")

    return trouble


def executing(*statements: str) -> Trouble:
    """Let handler `one` execute statements at event 1."""

    async def trouble(name: str, received: Received[Said], connection: AsyncConnection) -> None:
        if name == "one" and received.event.number == 1:
            for statement in statements:
                await connection.exec_driver_sql(statement)

    return trouble


async def nothing(connection: AsyncConnection) -> None:
    """Acknowledge nothing."""


@dataclass
class Room:
    """Handlers named `one` and `two` that write what is said to the diary, and then have trouble."""

    engine: AsyncEngine
    settings: Settings
    trouble: Trouble = no_trouble
    names: Sequence[str] = ("one", "two")
    now: float = 0.0
    consumers: Consumers = field(init=False)

    def __post_init__(self) -> None:
        self.consumers = self.another()

    def another(self, engine: AsyncEngine | None = None, **settings: Any) -> Consumers:
        """The same handlers as another process runs them."""
        handlers = Handlers()
        for name in self.names:
            handlers.on(Said, name=name)(self._handler(name))
        changed = self.settings.model_copy(update=settings)
        return Consumers(engine or self.engine, handlers, changed, clock=lambda: self.now)

    def _handler(self, name: str) -> Callable[[Received[Said], AsyncConnection], Awaitable[None]]:
        async def handle(received: Received[Said], connection: AsyncConnection) -> None:
            await write(connection, name, received)
            await self.trouble(name, received, connection)

        return handle

    async def apply(
        self, *documents: Document, by: Consumers | None = None, acknowledge: Acknowledge = nothing
    ) -> None:
        """Apply one page."""
        consumers = by or self.consumers
        await consumers.apply(EVENTS, documents, await consumers.begin(), acknowledge)

    async def idle(self, by: Consumers | None = None) -> None:
        """Do what is due beside the pages."""
        consumers = by or self.consumers
        while await consumers.idle(await consumers.begin()):
            pass

    async def retry(self, by: Consumers | None = None) -> None:
        """Make what is parked due, and try it again."""
        await self.run("UPDATE crossfeed.inbox_parked SET retry_at = now() WHERE retry_at < 'infinity'")
        await self.idle(by)

    async def forget(self) -> None:
        """Let the inbox be older than what is remembered, and be purged."""
        await self.run("UPDATE crossfeed.inbox SET at = at - interval '100 days'")
        self.now += 1_000
        await self.idle()

    async def act(self, act: Act, **meant: Any) -> Report:
        """Replay or discard dead letters, as the command does."""
        async with self.engine.connect() as connection:
            found = await count(connection, Selection(**meant))
        return await act_on(act, self.engine, Selection(**meant), found.at, None, _no_application, dry_run=False)

    async def said(self, handler: str = "one", of: str = "a") -> list[int]:
        """What the diary says a handler has heard of an aggregate, in its order."""
        rows = await self.rows("SELECT handler, subject, said FROM diary ORDER BY place")
        return [said for name, subject, said in rows if (name, subject) == (handler, of)]

    async def parked(self) -> list[tuple[Any, ...]]:
        return await self.rows("SELECT handler, event_id, attempts FROM crossfeed.inbox_parked ORDER BY place")

    async def letters(self) -> list[tuple[Any, ...]]:
        return await self.rows("SELECT reference, id, attempts FROM crossfeed.dead_letter ORDER BY number")

    async def reasons(self) -> list[str]:
        return [reason for (reason,) in await self.rows("SELECT reason FROM crossfeed.dead_letter ORDER BY number")]

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        async with self.engine.connect() as connection:
            return [tuple(row) for row in await connection.exec_driver_sql(sql)]

    async def run(self, sql: str) -> None:
        async with self.engine.begin() as connection:
            await connection.exec_driver_sql(sql)


async def _no_application() -> Any:
    raise AssertionError("nothing had to be read from Cosmos DB")
