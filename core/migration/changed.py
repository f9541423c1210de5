"""Compares only what was changed lately, and counts everything: what a switch has time for while nobody may write."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from core.cosmos import sql
from core.cosmos.documents import CosmosDocuments
from core.cosmos.gathering import all_ended
from core.cosmos.patience import patiently_read
from core.cosmos.querying import answers
from core.envelope import Origin
from core.identity import Identity
from core.migration.documents_side import sorted_out
from core.migration.letters import refused_identities
from core.migration.looking import Rules, look, look_beside
from core.migration.parity import Difference, EntityParity
from core.migration.restate import count_rows
from core.migration.rows_side import cosmos_epochs_of
from core.postgres.engine import fetch
from core.postgres.failures import translated
from core.query import Query

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.migration.looking import Sight
    from core.phases import PhaseRow

SKEW: Final = timedelta(seconds=60)
"""How far the clocks of both stores may be apart; preflight refuses a step long before."""

_PAGE: Final = 5000
_CHANGED = "SELECT * FROM c WHERE c._ts >= @since"
# From the newest message back: what was committed late has an older number, but by no more than its transaction lasted.
_LOGGED = """
    SELECT seq, at < %(since)s::timestamptz, entity, partition_key, id FROM crossfeed.outbox
    WHERE seq < %(before)s::bigint AND event_id IS NULL ORDER BY seq DESC LIMIT %(page)s::bigint
"""
_NEWEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Changed:
    """What was found: differences, and the counts of each entity type, of all rows and all documents."""

    counts: dict[str, EntityParity]
    differences: list[Difference]
    are_counts_equal: bool


async def changed_since(
    engine: AsyncEngine, store: CosmosStore, mappings: Mappings, phase: PhaseRow, since: datetime
) -> Changed:
    """Compare what was changed since a moment, in either store, while nobody writes.

    Args:
        engine: the database.
        store: the opened Cosmos DB database.
        mappings: all mappings of the process.
        phase: the recorded phase.
        since: by the clock of Postgres.

    Raises:
        TransientError: a store did not answer.

    """
    since -= SKEW
    documents = CosmosDocuments(store, mappings)
    with translated("reading what was changed"):
        async with engine.connect() as connection:
            rules = Rules(phase.primary, await cosmos_epochs_of(connection))
            refused = [one for one in await refused_identities(connection) if one.partition_key]
            logged = await _logged(connection, since) if phase.primary is Origin.POSTGRES else set()
            counts = {mapping.name: EntityParity(await count_rows(connection, mapping)) for mapping in mappings}
    shown: dict[Identity, Document | None] = {}

    async def read(container: str) -> None:
        await patiently_read(partial(documents.catch_up, container))
        found = await patiently_read(partial(_changed, store, container, since))
        for items in sorted_out(mappings, container, found)[0].values():
            shown.update(items)
        for mapping in mappings.in_container(container):
            counts[mapping.name].documents = await patiently_read(partial(_documents, store, mappings, mapping))

    await all_ended(read(container) for container in mappings.containers)
    known = {mapping.name for mapping in mappings}
    others = (logged | set(refused)) - shown.keys()
    sights = await look_beside(engine, mappings, shown)
    sights |= await look(engine, documents, mappings, [one for one in others if one.entity in known])
    return _judged(sights, rules, mappings, counts, set(refused))


def _judged(
    sights: dict[Identity, Sight],
    rules: Rules,
    mappings: Mappings,
    counts: dict[str, EntityParity],
    refused: set[Identity],
) -> Changed:
    differences: list[Difference] = []
    excused = dict.fromkeys(counts, 0)
    for identity, sight in sights.items():
        counts[identity.entity].checked += 1
        one = sight.difference(rules, mappings.named(identity.entity), deep=False)
        if one is not None:
            differences.append(one)
            if identity in refused:
                excused[identity.entity] += sight.is_shown - (sight.held.row is not None)
    are_equal = all(one.documents - one.rows == excused[name] for name, one in counts.items())
    return Changed(counts, differences, are_equal)


async def _logged(connection: AsyncConnection, since: datetime) -> set[Identity]:
    """Return the identities of all messages that were logged since a moment."""
    found: set[Identity] = set()
    before = _NEWEST
    while True:
        page = await fetch(connection, _LOGGED, {"since": since, "before": before, "page": _PAGE})
        found |= {Identity(*key) for _, is_older, *key in page if not is_older}
        if len(page) < _PAGE or all(is_older for _, is_older, *_ in page):
            return found
        before = page[-1][0]


async def _changed(store: CosmosStore, container: str, since: datetime) -> list[Document]:
    moment = int((since - datetime.fromtimestamp(0, UTC)).total_seconds())
    statement = sql.Statement(_CHANGED, [{"name": "@since", "value": moment}], exact=True, partition=None)
    return [document async for document in answers(store.container_named(container), statement)]


async def _documents(store: CosmosStore, mappings: Mappings, mapping: EntityMapping[Any]) -> int:
    statement = sql.count(mapping, mappings.rivals(mapping), Query())
    return sum([count async for count in answers(store.container(mapping), statement)])
