"""Measures what a comparison costs: the digests of a million rows against a scan of them, and the reading of documents.

The digests are those of the statement that validation runs, over accounts of the example of half a kilobyte; the scan
reads the stamps of the same rows, which are the last columns. They alternate, with the table in memory. The documents
are read from their feed, hashed and kept as validation does it, by a client that shares two cores with the server.
"""

from __future__ import annotations

import asyncio
import sys
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from core.cosmos.client import open_cosmos
from core.domain.mappings import ACCOUNTS, GAME_SESSIONS, MAPPINGS
from core.envelope import Origin, stamped
from core.local.postgres import EmbeddedPostgres
from core.mappings import Mappings
from core.migration.comparison import PAGE_SIZE
from core.migration.digests import key_hash, stamp_token, state_hash
from core.migration.documents_side import read_all, shown_of, sorted_out
from core.migration.rows_side import RowsSide
from core.migration.spool import spooling
from core.postgres.engine import open_engine
from core.settings import Settings
from core.stamp import Stamp
from tests.bench.mirrored import contents
from tests.bench.server import server_process
from tests.bench.wire import WrongAnswerError
from tests.stores import install, memory

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore

ROWS: Final = 1_000_000
DOCUMENTS: Final = 10_000
BATCH: Final = 100
WRITERS: Final = 4
_COSMOS_EPOCHS: Final = frozenset({1, 2, 4})

_FILL = f"""
    INSERT INTO accounts (id, email, auth0_user_id, display_name, user_profile_ids, completed_scenario_ids,
        subscription, settings, crossfeed_epoch, crossfeed_version)
    SELECT 'acc-' || md5(n::text), md5(n::text) || '@example.org', 'auth0|' || md5(n::text), 'Somebody ' || n,
        jsonb_build_array(md5('a' || n), md5('b' || n)), jsonb_build_array(md5('c' || n), md5('d' || n)),
        '{{"Type": "Monthly", "ProductId": "mystira.monthly", "IsActive": true, "Tier": "Family"}}',
        '{{"CacheCredentials": true, "PreferredLanguage": "en", "NotificationsEnabled": true}}', 3, mod(n, 50) + 1
    FROM generate_series(1, {ROWS}) n
"""
_SCAN = "SELECT count(crossfeed_version) FROM accounts"
_SOME = "SELECT id, crossfeed_epoch, crossfeed_version FROM accounts ORDER BY id LIMIT 1000"


async def measure(seconds: float, rounds: int) -> dict[str, float | int | str]:
    """Return seconds of the digests and of the scan, and documents a second.

    Args:
        seconds: about how long all rounds take together.
        rounds: how many there are at least.

    Raises:
        WrongAnswerError: the digests are not those of the rows, or not all documents were read.

    """
    async with EmbeddedPostgres(within=memory()) as postgres:
        dsn = await postgres.create_database("bench")
        await install(dsn)
        async with open_engine(Settings.load(postgres_dsn=dsn)) as engine:
            await _fill(engine)
            of_rows = await _rows(engine, seconds / 2, rounds)
    with server_process() as server:
        settings = Settings.load(cosmos_endpoint=server.endpoint, cosmos_key=server.key, cosmos_database="bench")
        async with open_cosmos(settings) as store:
            mappings = Mappings(MAPPINGS)
            await store.provision(mappings)
            await _write(store)
            return of_rows | {"cosmos_documents_per_s": round(await _documents(store, mappings, seconds / 2, rounds))}


async def _fill(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        await connection.exec_driver_sql(_FILL)
    async with engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.exec_driver_sql("VACUUM ANALYZE accounts")
    rows = RowsSide(engine, ACCOUNTS, _COSMOS_EPOCHS)
    async with engine.connect() as connection:
        some = (await connection.exec_driver_sql(_SOME)).all()
    mask = (1 << 62) - 1  # each in a bucket of its own
    keys = {key_hash(ACCOUNTS, ACCOUNTS.identity_of(id_, id_)): Stamp(*stamp) for id_, *stamp in map(tuple, some)}
    found = await rows.finer(mask, {key & mask for key in keys}, mask)
    expected = {key & mask: (1, state_hash(key, stamp_token(stamp))) for key, stamp in keys.items()}
    if found != expected:
        msg = "Postgres and the client make other digests of the same rows"
        raise WrongAnswerError(msg)


async def _rows(engine: AsyncEngine, seconds: float, rounds: int) -> dict[str, float | int | str]:
    rows = RowsSide(engine, ACCOUNTS, _COSMOS_EPOCHS)
    digests: list[float] = []
    scans: list[float] = []
    began = perf_counter()
    while len(scans) < rounds + 1 or perf_counter() - began < seconds:
        started = perf_counter()
        async with engine.connect() as connection:
            await connection.exec_driver_sql(_SCAN)
        scans.append(perf_counter() - started)
        started = perf_counter()
        found = await rows.digests()
        digests.append(perf_counter() - started)
        if sum(digest.states for digest in found.values()) != ROWS:
            msg = "the digests are of fewer rows than there are"
            raise WrongAnswerError(msg)
    digests, scans = digests[1:], scans[1:]  # the first had caches to fill
    ratio = median([one / other for one, other in zip(digests, scans, strict=True)])
    return {
        "rows": ROWS,
        "postgres_seconds": round(median(digests), 3),
        "scan_seconds": round(median(scans), 3),
        "ratio_to_scan": round(ratio, 2),
    }


async def _write(store: CosmosStore) -> None:
    """Write game sessions, a hundred to an account."""
    samples = contents(1000)[GAME_SESSIONS.container]
    waiting = iter(range(0, DOCUMENTS, BATCH))
    container = store.container(GAME_SESSIONS)

    async def write() -> None:
        for start in waiting:
            account = f"account-{start}"
            operations: list[tuple[Any, ...]] = []
            for number in range(start, start + BATCH):
                item = {**samples[number % len(samples)], "id": f"session-{number}", "accountId": account}
                operations.append(("create", (stamped(item, Stamp(3, 1), Origin.POSTGRES),)))
            await container.execute_item_batch(operations, partition_key=account)

    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(write())


async def _documents(store: CosmosStore, mappings: Mappings, seconds: float, rounds: int) -> float:
    """Return documents a second, of a read of all of them."""
    rates: list[float] = []
    began = perf_counter()
    while len(rates) < rounds + 1 or perf_counter() - began < seconds:
        print(f"round {len(rates)} of {rounds}", file=sys.stderr)
        started = perf_counter()
        with spooling([GAME_SESSIONS]) as spools:
            async for page in read_all(store, GAME_SESSIONS.container, PAGE_SIZE, _no_rest):
                found, _ = sorted_out(mappings, GAME_SESSIONS.container, page)
                spools[GAME_SESSIONS].keep([shown_of(*item) for item in found.get(GAME_SESSIONS, [])])
            kept = sum(digest.states for digest in spools[GAME_SESSIONS].digests.values())
        rates.append(DOCUMENTS / (perf_counter() - started))
        if kept != DOCUMENTS:
            msg = f"{kept} of {DOCUMENTS} documents were read"
            raise WrongAnswerError(msg)
    return median(rates[1:])


async def _no_rest(_charge: float) -> None:
    pass
