"""Measures the whole relay with a sink that does nothing, against COPY of the same messages joined to their rows."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import psycopg

import migrations
from core.cosmos.publish import Written
from core.domain.mappings import ACCOUNTS, MAPPINGS
from core.domain.tables import metadata
from core.mappings import Mappings
from core.phases import Phase
from core.postgres import capture
from core.postgres.engine import open_engine
from core.postgres.names import table_name
from core.postgres.phases import open_phase
from core.postgres.selects import row_of
from core.settings import Settings
from outbox.relay import Relay
from tests import stores
from tests.bench.wire import WrongAnswerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.publish import Outcome, Publish

DOCUMENTS: Final = 40_000
"""How many documents one round drains; each was written once."""
PAGE: Final = 2_000

FILL = """
    INSERT INTO accounts (id, email, auth0_user_id, display_name, role, user_profile_ids, completed_scenario_ids,
        subscription, settings, created_at, last_login_at)
    SELECT 'acc-' || n, 'user' || n || '@example.com', 'auth0|' || md5(n::text), 'Name ' || n, 'Parent',
        jsonb_build_array('prof-' || n, 'prof-' || n + 1), jsonb_build_array('scenario-' || mod(n, 100)),
        jsonb_build_object('Type', 'Monthly', 'ProductId', 'monthly', 'ValidUntil', '2026-12-31T23:59:59.9999999Z',
            'IsActive', true, 'PurchaseToken', md5(n::text), 'LastVerified', null, 'PurchasedScenarios', '[]'::jsonb,
            'Tier', 'Premium', 'StartDate', '2025-01-31T08:00:00.0000000Z', 'EndDate', null),
        jsonb_build_object('CacheCredentials', false, 'RequireAuthOnStartup', false, 'PreferredLanguage', 'en',
            'NotificationsEnabled', true, 'Theme', 'Light'),
        now() - n * interval '1 second', now()
    FROM generate_series(%(first)s::int, %(last)s::int) AS n
"""
_COPY = f"""
    COPY (SELECT m.seq, m.entity, m.partition_key, m.id, t.crossfeed_epoch, t.crossfeed_version, t.crossfeed_etag,
            {row_of(ACCOUNTS)}
        FROM crossfeed.outbox m JOIN {table_name(ACCOUNTS.table)} t ON t.id = m.id WHERE m.seq > {{}} ORDER BY m.seq)
    TO STDOUT
"""
# What the relay's own sessions wrote, whether or not somebody else (autovacuum, a checkpoint) wrote meanwhile.
_WAL = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
_DEAD = """
    SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_user_tables
    WHERE schemaname = 'crossfeed' AND relname LIKE 'outbox%' AND relname <> 'outbox_partition'
"""


class NullSink:
    """A target that takes everything at once."""

    def __init__(self) -> None:
        self.written = 0

    async def write(
        self,
        items: Sequence[Publish],
        *,
        check: Callable[[], None],
        on_outcome: Callable[[Publish, Outcome], None],
        backlog: bool = False,
    ) -> list[Outcome]:
        check()
        outcome = Written("etag")
        for item in items:
            on_outcome(item, outcome)
        self.written += len(items)
        return [outcome] * len(items)


async def measure(seconds: float, rounds: int) -> dict[str, float | int | str]:
    """Return messages a second of the relay and of COPY, and what the relay writes.

    Args:
        seconds: about how long all rounds of one figure take.
        rounds: how many there are at least.

    Raises:
        WrongAnswerError: the relay sent another number of documents than were written.

    """
    with stores.postgres() as server:
        settings = Settings.load(
            postgres_dsn=await server.create_database("drain"), relay_page_size=PAGE, outbox_partition_size=10**7
        )
        async with open_engine(settings) as engine, await _session(settings) as session:
            await _install(engine)
            bench = _Bench(settings, engine, session)
            await bench.round()  # plans and caches
            return await bench.measured(seconds, rounds)


class _Bench:
    def __init__(self, settings: Settings, engine: AsyncEngine, session: psycopg.AsyncConnection[Any]) -> None:
        self._settings = settings
        self._engine = engine
        self._session = session
        self._documents = 0
        self._wal: list[float] = []

    async def measured(self, seconds: float, rounds: int) -> dict[str, float | int | str]:
        relay: list[float] = []
        copy: list[float] = []
        held: list[float] = []
        began = perf_counter()
        while len(relay) < rounds or perf_counter() - began < seconds:
            one, other = await self.round()
            relay.append(one)
            copy.append(other)
            held.append(await self._held())
        return {
            "messages_per_s": round(median(relay)),
            "copy_per_s": round(median(copy)),
            "ratio_to_copy": round(median([one / other for one, other in zip(relay, copy, strict=True)]), 3),
            "relay_wal_bytes_per_message": round(median(self._wal), 2),
            "dead_tuples": await self._value(_DEAD),
            "held_snapshot_cost_ratio": round(median([one / other for one, other in zip(relay, held, strict=True)]), 3),
            "page_size": PAGE,
        }

    async def round(self) -> tuple[float, float]:
        """Write documents; return messages a second of the relay and of COPY."""
        before = await self._value("SELECT coalesce(max(seq), 0) FROM crossfeed.outbox")
        await self._write()
        relay = await self._drain()
        began = perf_counter()
        rows = 0
        async with self._session.cursor().copy(_COPY.format(int(before))) as copy:
            async for part in copy:
                rows += bytes(part).count(b"\n")
        if rows != DOCUMENTS:
            msg = f"COPY gave {rows} messages of {DOCUMENTS}"
            raise WrongAnswerError(msg)
        return relay, DOCUMENTS / (perf_counter() - began)

    async def _held(self) -> float:
        """Return messages a second of the relay while another session holds a snapshot that is older than them."""
        async with await _session(self._settings) as holder, holder.transaction():
            await holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            await holder.execute("SELECT pg_current_xact_id(), count(*) FROM crossfeed.slot")
            await self._write()
            return await self._drain()

    async def _write(self) -> None:
        """Write documents, a thousand in a transaction; vacuum as autovacuum would have by then."""
        for _ in range(DOCUMENTS // 1000):
            await self._session.execute(FILL, {"first": self._documents + 1, "last": self._documents + 1000})
            self._documents += 1000
        await self._session.execute("VACUUM (ANALYZE) accounts, crossfeed.outbox, crossfeed.slot")
        await self._session.execute("CHECKPOINT")  # else its full page images count as the relay's

    async def _drain(self) -> float:
        sink = NullSink()
        relay = Relay(self._settings, Mappings(MAPPINGS), self._engine, sink)
        wal = await self._value(_WAL)
        began = perf_counter()
        await relay.drain()
        seconds = perf_counter() - began
        self._wal.append(float(await self._value(_WAL) - wal) / DOCUMENTS)
        if sink.written != DOCUMENTS:
            msg = f"the relay sent {sink.written} documents of {DOCUMENTS}"
            raise WrongAnswerError(msg)
        return DOCUMENTS / seconds

    async def _value(self, sql: str) -> Any:
        cursor = await self._session.execute(sql)
        [value] = await cursor.fetchone() or (None,)
        return value


async def _session(settings: Settings) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(settings.require_postgres(), autocommit=True)


async def _install(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(migrations.upgrade)
        await connection.run_sync(metadata.create_all)
        for mapping in Mappings(MAPPINGS):
            await connection.run_sync(capture.install, mapping)
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="bench", why="bench")
