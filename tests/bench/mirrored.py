"""What the benches of the way to Postgres share: documents as a feed shows them, and a database that takes them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg

from core.content import content_of
from core.domain.mappings import MAPPINGS
from core.domain.samples import sample_documents
from core.envelope import Origin, stamped
from core.mappings import Mappings
from core.phases import Phase
from core.postgres.engine import open_engine
from core.postgres.held import read_held
from core.postgres.names import STAMP_COLUMNS, TAKEN_COLUMNS, columns_of, table_name
from core.postgres.phases import open_phase
from core.projection import same_json
from core.stamp import Stamp
from tests.bench.wire import WrongAnswerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.mapping import EntityMapping
    from core.settings import Settings

Documents = dict[str, list["Document"]]
"""By container."""

_SEED: Final = 5
_FIRST: Final = Stamp(2, 1)
"""Of a document that was written once since Cosmos DB became the primary."""
TABLES: Final = [table_name(mapping.table) for mapping in MAPPINGS]


def contents(count: int) -> Documents:
    """Return documents of all four containers of the example, as our repositories store them: stamped and hashed.

    Each has an id of its own; their spellings are those of the samples, a third of them the old application's.
    """
    found = sample_documents(count, _SEED)
    return {
        container: [
            stamped({**item, "id": f"{item['id']}-{place}"}, _FIRST, Origin.COSMOS) for place, item in enumerate(items)
        ]
        for container, items in found.items()
    }


def as_shown(documents: Documents) -> Documents:
    """Add the system properties that a change feed shows."""
    serial = 0
    shown: Documents = {}
    for container, items in documents.items():
        shown[container] = []
        for item in items:
            serial += 1
            system = {
                "_rid": f"{serial:014d}==",
                "_self": f"dbs/b/colls/c/docs/{serial:014d}==/",
                "_etag": f'"{serial:032x}"',
                "_attachments": "attachments/",
                "_ts": 1_770_000_000 + serial // 100,
                "_lsn": serial,
            }
            shown[container].append({**item, **system})
    return shown


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[AsyncEngine, psycopg.AsyncConnection[Any]]]:
    """Yield an engine on an installed database in which Cosmos DB is primary, and a session beside it."""
    async with (
        open_engine(settings) as engine,
        await psycopg.AsyncConnection.connect(settings.require_postgres(), autocommit=True) as session,
    ):
        await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="bench", why="bench")
        yield engine, session


async def clear(session: psycopg.AsyncConnection[Any]) -> None:
    """Empty the mapped tables, which a trigger refuses to others."""
    await session.execute("SET session_replication_role = replica")
    await session.execute(f"TRUNCATE {', '.join(TABLES)}")
    await session.execute("RESET session_replication_role")
    await session.execute("CHECKPOINT")  # else the next writer pays for it


async def check(engine: AsyncEngine, documents: Documents) -> None:
    """Compare the rows with the documents, each to the letter.

    Raises:
        WrongAnswerError: they differ.

    """
    for mapping in Mappings(MAPPINGS):
        items = documents[mapping.container]
        async with engine.connect() as connection:
            held = await read_held(connection, mapping, [mapping.identity(item) for item in items])
        for item, found in zip(items, held, strict=True):
            row = found.live_row
            if row is None or row.stamp != _FIRST or not same_json(row.document(mapping), content_of(item)):
                msg = f"{mapping.identity(item)} is not in Postgres as it is in Cosmos DB"
                raise WrongAnswerError(msg)


async def fingerprint(session: psycopg.AsyncConnection[Any]) -> list[tuple[Any, ...]]:
    """Return how many rows each table has, and a digest of all that is in them."""
    found = []
    for mapping in MAPPINGS:
        everything = f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table_name(mapping.table)} t"
        found += await (await session.execute(everything)).fetchall()
    return found


def copied_columns(mapping: EntityMapping[Any]) -> str:
    """Return the columns that the guarded write fills."""
    return columns_of([*mapping.written_columns, *STAMP_COLUMNS, *TAKEN_COLUMNS])
