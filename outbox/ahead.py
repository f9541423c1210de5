"""Notices a document that is ahead of Postgres while that is the primary: then Postgres has lost what it was made of.

A document of this epoch was a commit in Postgres first, so a look at the row after the document was read finds its
stamp or a newer one, unless the primary moved in between. Of earlier epochs it may be a late write to Cosmos DB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.postgres.failures import translated
from core.postgres.held import read_held
from core.postgres.phases import read_phase
from outbox.history import lost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.identity import Identity
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.stamp import Stamp


async def judge_superseded(
    engine: AsyncEngine, mappings: Mappings, found: Mapping[Identity, Stamp], phase: PhaseRow
) -> None:
    """Compare the stamps of documents that were newer than what was to be sent with what Postgres holds now.

    Args:
        engine: the database.
        mappings: of everything that was sent.
        found: what documents were there, read before this is called.
        phase: in which the states were loaded.

    Raises:
        HistoryLostError: Postgres holds an older state of one of them.
        StoreUnavailableError: Postgres did not answer.

    """
    by_entity: dict[str, list[Identity]] = {}
    for identity, stamp in found.items():
        if stamp.epoch >= phase.epoch:
            by_entity.setdefault(identity.entity, []).append(identity)
    if not by_entity:
        return
    with translated("comparing documents with their rows"):
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            held = [
                item
                for entity, identities in by_entity.items()
                for item in await read_held(connection, mappings.named(entity), identities)
            ]
            now = await read_phase(connection)
    if (now.phase, now.epoch) != (phase.phase, phase.epoch):
        return
    for item in held:
        if item.stamp is not None and item.stamp < found[item.identity]:
            lost(f"of {item.identity} Cosmos DB holds {found[item.identity]}, Postgres holds {item.stamp}")
