"""Compares what both stores hold: beside live traffic (`validate`), and while nobody writes (`verify`)."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from core.cosmos.documents import CosmosDocuments
from core.cosmos.sessions import check_sessions
from core.errors import PrimaryMovedError
from core.migration.changed import changed_since
from core.migration.comparison import Comparison
from core.migration.letters import letters_of
from core.migration.looking import Rules, look
from core.migration.parity import Parity
from core.migration.rows_side import cosmos_epochs_of
from core.postgres.engine import fetch
from core.postgres.failures import translated
from core.postgres.phases import read_phase
from core.progress import Progress
from core.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.mappings import Mappings
    from core.migration.parity import Difference, EntityParity
    from core.phases import PhaseRow
    from core.settings import Settings

LOOKED_AT: Final = 20_000
"""So much of what is suspected is looked at again at a time. When so much was confirmed, the rest is only counted."""

ROUNDS: Final = 5
"""How often what is being written is looked at again."""

_PART: Final = 500
_NOW = "SELECT clock_timestamp()"


async def validate(  # noqa: PLR0913 - what a comparison is made of
    engine: AsyncEngine,
    store: CosmosStore,
    mappings: Mappings,
    settings: Settings,
    *,
    deep: bool = False,
    entity: str | None = None,
    settle_s: float | None = None,
    limit: int = 1000,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Parity:
    """Compare both stores beside live traffic.

    What differs is looked at again by key, `settle_s` later: it is called a difference only if the primary's state
    has not changed in between, so that it had that long to arrive.

    Args:
        engine: from core.postgres.engine.open_engine.
        store: the opened Cosmos DB database.
        mappings: all mappings of the process.
        settings: `reconcile_…`, which say how gently containers are read.
        deep: compare contents too, not only what says which state it is.
        entity: only this entity type.
        settle_s: how long what is under way may take, in seconds; `reconcile_lag_s` unless given.
        limit: how many differences of an entity type are named.
        progress: told how far each step is.

    Raises:
        MappingError: no mapping is called `entity`.
        PrimaryMovedError: the phase changed meanwhile.
        ConfigurationError: the account's consistency is too weak for any comparison.
        TransientError: a store did not answer.

    """
    await check_sessions(store)
    as_of, phase = await _begin(engine)
    throttle = Throttle(settings.reconcile_ru_per_second, settings.reconcile_pause_ms / 1000)

    async def rest(charge: float) -> None:
        throttle.spend(charge)
        await asyncio.sleep(throttle.rest_s())

    comparison = Comparison(
        engine,
        store,
        mappings,
        phase,
        deep=deep,
        entity=entity,
        page_size=settings.reconcile_page_size,
        rest=rest,
        progress=progress,
    )
    parity = Parity(as_of, deep, comparison.counts)
    lag_s = settings.reconcile_lag_s if settle_s is None else settle_s
    suspected: dict[Identity, Difference] = {}
    confirmed: dict[Identity, Difference] = {}
    busy: set[Identity] = set()

    async def look_again() -> None:
        differing, still = await _confirm(
            engine, store, mappings, phase, suspected, lag_s, deep=deep, progress=progress
        )
        confirmed.update((one.identity, one) for one in differing)
        busy.update(still)
        suspected.clear()

    # A comparison that takes hours suspects whatever was written meanwhile: more than could be kept.
    async with aclosing(comparison.differences()) as found:
        async for one in found:
            if one.identity in confirmed:
                continue
            if len(confirmed) >= LOOKED_AT:
                parity.entities[one.identity.entity].total += 1
                continue
            suspected[one.identity] = one
            if len(suspected) >= LOOKED_AT:
                await look_again()
    await look_again()
    for identity in busy - confirmed.keys():
        parity.entities[identity.entity].busy += 1
    await _name(engine, parity.entities, confirmed.values(), limit)
    _, now = await _begin(engine)
    if (now.phase, now.epoch) != (phase.phase, phase.epoch):
        msg = f"epoch {now.epoch} was opened while the stores were compared in epoch {phase.epoch}; compare again"
        raise PrimaryMovedError(msg)
    return parity


async def verify(  # noqa: PLR0913 - what a comparison is made of
    engine: AsyncEngine,
    store: CosmosStore,
    mappings: Mappings,
    phase: PhaseRow,
    *,
    since: datetime | None,
    limit: int = 1000,
) -> Parity:
    """Compare both stores while nobody writes, and everything written has arrived.

    From Cosmos DB: identities, and the `_etag` that each row has taken last. From Postgres: hashes that verify, and
    stamps. Nothing is waited for: a difference is one. `parity.unaccounted == 0` says that every difference has a dead
    letter.

    Where only what was changed lately is compared, everything is counted besides, and everything is compared after all
    if the counts do not agree.

    Args:
        engine: from core.postgres.engine.open_engine.
        store: the opened Cosmos DB database.
        mappings: all mappings of the process.
        phase: the recorded phase, draining.
        since: compare what was changed since then, and the counts: `as_of` of an equal Parity. None: everything.
        limit: how many differences of an entity type are named.

    Raises:
        TransientError: a store did not answer.

    """
    as_of, _ = await _begin(engine)
    if since is not None:
        found = await changed_since(engine, store, mappings, phase, since)
        if found.are_counts_equal:
            await _name(engine, found.counts, found.differences, limit)
            return Parity(as_of, deep=False, entities=found.counts)
    comparison = Comparison(engine, store, mappings, phase)
    confirmed: list[Difference] = []
    async with aclosing(comparison.differences()) as differences:
        async for one in differences:
            if len(confirmed) < LOOKED_AT:
                confirmed.append(one)
            else:
                comparison.counts[one.identity.entity].total += 1
    await _name(engine, comparison.counts, confirmed, limit)
    return Parity(as_of, deep=False, entities=comparison.counts)


async def _begin(engine: AsyncEngine) -> tuple[datetime, PhaseRow]:
    with translated("reading the phase"):
        async with engine.connect() as connection:
            [(now,)] = await fetch(connection, _NOW, {})
            return now, await read_phase(connection)


async def _confirm(  # noqa: PLR0913, PLR0917 - what a comparison is made of
    engine: AsyncEngine,
    store: CosmosStore,
    mappings: Mappings,
    phase: PhaseRow,
    suspected: Mapping[Identity, Difference],
    settle_s: float,
    *,
    deep: bool,
    progress: Callable[[Progress], None],
) -> tuple[list[Difference], list[Identity]]:
    """Return what still differs a lag window after the primary wrote it, and what is being written all the time."""
    confirmed = [one for one in suspected.values() if not one.identity.partition_key]  # no key to look at it by
    open_ = [one.identity for one in suspected.values() if one.identity.partition_key]
    if not open_:
        return confirmed, []
    documents = CosmosDocuments(store, mappings)
    with translated("reading the history of phases"):
        async with engine.connect() as connection:
            rules = Rules(phase.primary, await cosmos_epochs_of(connection))
    differing = partial(_differing, engine, documents, mappings, rules, deep=deep)
    before = await differing(open_)
    for _ in range(ROUNDS):
        progress(Progress("looked at again", len(suspected) - len(before), len(suspected)))
        if not before:
            break
        await asyncio.sleep(settle_s)
        for container in {mappings.named(identity.entity).container for identity in before}:
            await documents.catch_up(container)
        after = await differing(list(before))
        busy = {identity: pair for identity, pair in after.items() if pair[0] != before[identity][0]}
        confirmed += [difference for identity, (_, difference) in after.items() if identity not in busy]
        before = busy
    return confirmed, list(before)


async def _differing(  # noqa: PLR0913 - what a comparison is made of
    engine: AsyncEngine,
    documents: CosmosDocuments,
    mappings: Mappings,
    rules: Rules,
    identities: Sequence[Identity],
    *,
    deep: bool,
) -> dict[Identity, tuple[object, Difference]]:
    """Return what differs just now, each with the state that the primary holds; few documents are kept at a time."""
    found: dict[Identity, tuple[object, Difference]] = {}
    for start in range(0, len(identities), _PART):
        sights = await look(engine, documents, mappings, identities[start : start + _PART])
        for identity, sight in sights.items():
            one = sight.difference(rules, mappings.named(identity.entity), deep=deep)
            if one is not None:
                found[identity] = sight.state_in(rules.primary), one
    return found


async def _name(
    engine: AsyncEngine,
    counts: Mapping[str, EntityParity],
    differences: Iterable[Difference],
    limit: int,
) -> None:
    """Count differences, name some of them, and say which have a dead letter."""
    all_ = list(differences)
    with translated("reading the dead letters of differences"):
        async with engine.connect() as connection:
            letters = await letters_of(connection, [one.identity for one in all_])
    for one in all_:
        of_type = counts[one.identity.entity]
        of_type.total += 1
        letter = letters.get(one.identity)
        of_type.accounted += letter is not None
        if len(of_type.differences) < limit:
            of_type.differences.append(replace(one, letter=letter))
