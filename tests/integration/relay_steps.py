"""What the tests of capture and relay share: a Postgres that is primary, the log as it stands, and a sink in memory."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg

from core.content import content_hash
from core.cosmos.documents import CosmosDocuments
from core.cosmos.feed import feed_ranges, pages
from core.cosmos.publish import Outcome, Publish, Superseded, Unchanged, Written
from core.envelope import Ours, author_of, is_deleted
from core.mappings import Mappings
from core.phases import Phase
from core.postgres.held import read_held
from core.postgres.phases import open_phase
from outbox.relay import open_relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.phases import PhaseRow
    from core.postgres.held import Held
    from core.settings import Settings
    from core.stamp import Stamp
    from outbox.relay import Relay


async def make_primary(engine: AsyncEngine, phase: Phase = Phase.DUAL_WRITE_POSTGRES_READ) -> PhaseRow:
    return await open_phase(engine, phase, who="test", why="test")


async def run(engine: AsyncEngine, *statements: str) -> None:
    """Run statements in one transaction each."""
    for statement in statements:
        async with engine.begin() as connection:
            await connection.exec_driver_sql(statement)


async def falls_silent(engine: AsyncEngine, relay: Relay) -> None:
    """Stop a relay's heart, as SIGSTOP does, and let its lease run out; `del relay.leases.renew_if_due` wakes it."""

    async def nothing() -> None:
        pass

    await relay.leases.renew_if_due()  # after one that is under way
    relay.leases.renew_if_due = nothing  # type: ignore[method-assign]
    await run(engine, f"UPDATE crossfeed.relay SET expires_at = '-infinity' WHERE relay = '{relay.leases.holder_id}'")


async def connect(settings: Settings) -> psycopg.AsyncConnection[Any]:
    """A session of somebody who knows nothing of Crossfeed."""
    return await psycopg.AsyncConnection.connect(settings.require_postgres(), autocommit=True)


class Logged(NamedTuple):
    key: str
    id: str
    version: int
    deleted: bool


async def logged(engine: AsyncEngine) -> list[Logged]:
    """The log, in its order."""
    async with engine.connect() as connection:
        result = await connection.exec_driver_sql(
            "SELECT partition_key, id, version, deleted FROM crossfeed.outbox ORDER BY seq"
        )
        return [Logged(*row) for row in map(tuple, result)]


async def versions(engine: AsyncEngine, table: str) -> dict[str, int]:
    async with engine.connect() as connection:
        result = await connection.exec_driver_sql(f"SELECT id, crossfeed_version FROM {table}")
        return dict(map(tuple, result))


async def letters(engine: AsyncEngine) -> list[tuple[Any, ...]]:
    async with engine.connect() as connection:
        result = await connection.exec_driver_sql(
            "SELECT direction, kind, id, attempts, reason FROM crossfeed.dead_letter ORDER BY number"
        )
        return [tuple(row) for row in result]


async def until(true: Callable[[], bool | Awaitable[bool]], timeout_s: float = 20) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(timeout_s):
        while not (await found if isinstance(found := true(), Awaitable) else found):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)


async def waits(engine: AsyncEngine) -> bool:
    """Whether anybody waits for a table."""
    async with engine.connect() as connection:
        found = await connection.exec_driver_sql("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        return bool(found.scalar_one())


@asynccontextmanager
async def relaying(
    settings: Settings, mappings: Mappings, engine: AsyncEngine, store: CosmosStore
) -> AsyncIterator[None]:
    """Run a relay meanwhile."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(open_relay(settings, mappings, engine, store).run(stop))
        try:
            yield
        finally:
            stop.set()


@dataclass
class MemorySink:
    """A guarded target in memory; fails as it is told."""

    states: dict[Identity, Publish] = field(default_factory=dict)
    history: list[Publish] = field(default_factory=list)
    before: Callable[[Publish], None] | None = None

    async def write(
        self,
        items: Sequence[Publish],
        *,
        check: Callable[[], None],
        on_outcome: Callable[[Publish, Outcome], None],
        backlog: bool = False,
    ) -> list[Outcome]:
        return [await self._one(item, check, on_outcome) for item in items]

    async def _one(
        self, item: Publish, check: Callable[[], None], on_outcome: Callable[[Publish, Outcome], None]
    ) -> Outcome:
        await asyncio.sleep(0)
        check()
        if self.before is not None:
            self.before(item)
        outcome = self._take(item)
        on_outcome(item, outcome)
        return outcome

    def _take(self, item: Publish) -> Outcome:
        known = self.states.get(item.identity)
        if known is not None and known.stamp >= item.stamp:
            return Unchanged("e") if known.stamp == item.stamp else Superseded(known.stamp)
        self.states[item.identity] = item
        self.history.append(item)
        return Written("e")


async def differences(
    engine: AsyncEngine, store: CosmosStore, mapping: EntityMapping[Any], identities: Sequence[Identity]
) -> list[str]:
    """Compare what both stores hold of every identity, content and stamp."""
    async with engine.connect() as connection:
        held = await read_held(connection, mapping, identities)
    documents = CosmosDocuments(store, Mappings([mapping]))
    found = [await documents.read(item.identity) for item in held]
    return [wrong for item, document in zip(held, found, strict=True) if (wrong := difference(mapping, item, document))]


def difference(mapping: EntityMapping[Any], item: Held, found: Document | None) -> str | None:
    """Compare what Postgres holds of an identity with the document that Cosmos DB holds."""
    row = item.live_row
    if found is None:
        return f"{item.identity}: missing"
    author = author_of(found)
    if not isinstance(author, Ours) or author.stamp != item.stamp or is_deleted(found) != (row is None):
        return f"{item.identity}: {author} instead of {item.stamp}"
    if row is not None and content_hash(row.document(mapping)) != content_hash(found):
        return f"{item.identity}: other content"
    return None


class Feed:
    """Follows the change feed of a container and remembers the stamps of each document, in their order."""

    def __init__(self, store: CosmosStore, mapping: EntityMapping[Any]) -> None:
        self._mapping = mapping
        self._container = store.container(mapping)
        self._continuations: dict[str, str] = {}
        self.stamps: dict[Identity, list[Stamp]] = defaultdict(list)

    async def read(self) -> None:
        for feed_range in await feed_ranges(self._container, refresh=False):
            async for page in pages(self._container, feed_range, self._continuations.get(feed_range.key), 100):
                self._continuations[feed_range.key] = page.continuation
                for document in page.documents:
                    author = author_of(document)
                    assert isinstance(author, Ours)
                    self.stamps[self._mapping.identity(document)].append(author.stamp)

    def check_order(self) -> None:
        """Fail if a document was ever seen going back, or was written twice in one state."""
        for stamps in self.stamps.values():
            assert stamps == sorted(set(stamps))
