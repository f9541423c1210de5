"""Makes the follower what the primary is, where they differ, through the guarded writes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from core.cache.changes import Changed
from core.cache.notices import Notices
from core.cosmos.documents import CosmosDocuments
from core.cosmos.sessions import check_sessions
from core.envelope import Origin
from core.errors import ConflictError
from core.migration.looking import Rules, look
from core.migration.parity import SETTLED, DifferenceKind
from core.migration.restate import bury_absent, count_rows, forget_taken, restamp, version_claimed
from core.migration.rows_side import cosmos_epochs_of
from core.migration.sending import send
from core.phases import Phase, PhaseState
from core.postgres.absence import Missed, sees_less, settle_missed
from core.postgres.backfilled import backfill_documents
from core.postgres.failures import translated
from core.postgres.guarded import apply_documents
from core.postgres.opening import read_barrier
from core.postgres.phases import read_phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.mappings import Mappings
    from core.migration.looking import Sight
    from core.migration.parity import Difference
    from core.migration.ports import Publisher
    from core.phases import PhaseRow
    from core.postgres.opening import Barrier
    from core.settings import Settings

log = structlog.get_logger()

PART: Final = 200
"""How many identities are brought into step in one transaction."""

ALWAYS_REMOVED: Final = 10
"""So many rows are removed whatever share of all rows that is."""

UNREADABLE: Final = "its key is none that a row could have"
TOO_MANY: Final = "too many rows have no document: is this the right account? (CROSSFEED_RECONCILE_MAX_REMOVED_SHARE)"
UNNAMED: Final = "they were counted, not named: there are too many for one run; run it again"
REMAINS: Final = "it differs still: refused, or written meanwhile"
_NOW = "SELECT clock_timestamp()"


@dataclass(frozen=True, slots=True)
class Repaired:
    """What became of the differences, counted.

    Args:
        written: brought into step; of a dry run, those that would be tried.
        removed: gone from the follower, as they are from the primary; likewise.
        kept: left as they are, by the reason.

    """

    written: int
    removed: int
    kept: dict[str, int]

    def facts(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"written": self.written, "removed": self.removed, "kept": self.kept}


async def repair(  # noqa: PLR0913, PLR0917 - what a repair is made of
    engine: AsyncEngine,
    store: CosmosStore,
    mappings: Mappings,
    settings: Settings,
    publisher: Publisher,
    differences: Sequence[Difference],
    *,
    dry_run: bool,
    settle_s: float | None = None,
    unnamed: Mapping[str, int] | None = None,
    notices: Notices | None = None,
) -> Repaired:
    """Bring identities into step, with the primary as the truth.

    May be repeated. Whatever was written since the differences were found is taken as it is now.

    Args:
        engine: from core.postgres.engine.open_engine.
        store: the opened Cosmos DB database.
        mappings: all mappings of the process.
        settings: `reconcile_lag_s` and `reconcile_max_removed_share`.
        publisher: writes to Cosmos DB while Postgres is the primary.
        differences: what `validate` named.
        dry_run: change nothing.
        settle_s: between the two reads that believe a delete, in seconds; `reconcile_lag_s` unless given.
        unnamed: how many more of each entity type differ that `validate` only counted: they are left alone, and count
            where it is asked whether too many rows would be removed.
        notices: tells a cache of what was brought into step; without it nobody does.

    Raises:
        ConflictError: nothing is mirrored in this phase, or a switch is under way.
        PrimaryMovedError: the phase changed meanwhile; what was done is done.
        TransientError: a store did not answer; what was done is done, repeat.

    """
    with translated("reading the phase"):
        async with engine.connect() as connection:
            phase = await read_phase(connection)
            rules = Rules(phase.primary, await cosmos_epochs_of(connection))
    if phase.phase in {Phase.COSMOS_ONLY, Phase.POSTGRES_ONLY} or phase.state is not PhaseState.STEADY:
        msg = f"in phase {phase.phase.label}, {phase.state.value}, neither store follows the other: nothing to repair"
        raise ConflictError(msg)
    await check_sessions(store)
    lag_s = settings.reconcile_lag_s if settle_s is None else settle_s
    documents = CosmosDocuments(store, mappings)
    work = _Repair(engine, mappings, documents, publisher, phase, rules, lag_s, notices or Notices())
    named = [one for one in differences if one.identity.partition_key]
    work.kept[UNREADABLE] += len(differences) - len(named)
    unnamed = unnamed or {}
    work.kept[UNNAMED] += sum(unnamed.values())
    named = await work.without_too_many(named, settings.reconcile_max_removed_share, unnamed)
    if not dry_run:
        for start in range(0, len(named), PART):
            await work.part(named[start : start + PART])
    else:
        removed = sum(one.kind is DifferenceKind.EXTRA for one in named)
        work.removed, work.written = removed, len(named) - removed
    return Repaired(work.written, work.removed, {why: count for why, count in work.kept.items() if count})


@dataclass(slots=True)
class _Repair:
    """One repair, and what it came to."""

    engine: AsyncEngine
    mappings: Mappings
    documents: CosmosDocuments
    publisher: Publisher
    phase: PhaseRow
    rules: Rules
    lag_s: float
    notices: Notices
    written: int = 0
    removed: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    backfilled: set[Identity] = field(default_factory=set)

    async def without_too_many(
        self, differences: list[Difference], share: float, unnamed: Mapping[str, int]
    ) -> list[Difference]:
        """Leave out the rows of an entity type of which too many would be removed; nothing else ever removes a row."""
        if self.phase.primary is Origin.POSTGRES:
            return differences
        of_type = Counter(one.identity.entity for one in differences if one.kind is DifferenceKind.EXTRA)
        kept = set()
        for entity, count in of_type.items():
            with translated("counting rows"):
                async with self.engine.connect() as connection:
                    rows = await count_rows(connection, self.mappings.named(entity))
            # Of what was only counted nobody knows the kind: named in pieces, all rows would go, a piece a run.
            if count + unnamed.get(entity, 0) > max(ALWAYS_REMOVED, share * rows):
                log.error("repair.refused", entity=entity, without_document=count, rows=rows)
                kept.add(entity)
                self.kept[TOO_MANY] += count
        return [one for one in differences if one.kind is not DifferenceKind.EXTRA or one.identity.entity not in kept]

    async def part(self, differences: Sequence[Difference]) -> None:
        """Bring some into step, and look what became of them."""
        identities = [one.identity for one in differences]
        for container in {self.mappings.named(identity.entity).container for identity in identities}:
            await self.documents.catch_up(container)
        before = await self._differing(identities)
        if self.phase.primary is Origin.COSMOS:
            await self._to_postgres(before)
        else:
            await self._to_cosmos(before)
        # What was read before may be none of the states that are there now, in either store.
        await self.notices.tell([Changed(identity, None, deleted=False) for identity in before])
        after = await self._differing(before)
        self.kept[SETTLED] += len(identities) - len(before)
        for identity, one in before.items():
            if identity in after:
                self.kept[REMAINS] += 1
            elif one[1].kind is DifferenceKind.EXTRA and identity not in self.backfilled:
                self.removed += 1
            else:
                self.written += 1

    async def _differing(self, identities: Sequence[Identity] | Pairs) -> Pairs:
        sights = await look(self.engine, self.documents, self.mappings, identities)
        found = (
            (identity, sight, sight.difference(self.rules, self.mappings.named(identity.entity), deep=True))
            for identity, sight in sights.items()
        )
        return {identity: (sight, one) for identity, sight, one in found if one is not None}

    # -- Cosmos DB is the primary

    async def _to_postgres(self, pairs: Pairs) -> None:
        now = await self._now()
        for container, its in self._by_container(pairs).items():
            all_ = (sight.document or sight.beside for sight, _ in its.values())
            documents = [document for document in all_ if document is not None]
            with translated(f"repairing rows of {container!r}"):
                async with self.engine.begin() as connection:
                    changed = [one for one, (_, found) in its.items() if found.kind is DifferenceKind.DIFFERENT]
                    await forget_taken(connection, self.mappings, changed, self.phase)
                    await apply_documents(connection, self.mappings, container, documents, self.phase, self.documents)
        gone = [
            Missed(identity, row.stamp, row.taken_etag, row.taken, now)
            for identity, (sight, _) in pairs.items()
            if sight.document is sight.beside is None and (row := sight.held.live_row) is not None
        ]
        if gone:
            await asyncio.sleep(self.lag_s)
            await self._settle(gone)

    async def _settle(self, missed: Sequence[Missed]) -> None:
        of_container: dict[str, list[Missed]] = {}
        for one in missed:
            of_container.setdefault(self.mappings.named(one.identity.entity).container, []).append(one)
        for container, its in of_container.items():
            await self.documents.catch_up(container)
            confirmed = []
            for one in its:
                looked = await self.documents.look(one.identity)
                if looked.document is None and not sees_less(looked.lsn, one.taken, time.time()):
                    confirmed.append(one)
            with translated(f"removing rows of {container!r}"):
                async with self.engine.begin() as connection:
                    await settle_missed(connection, self.mappings, confirmed, self.phase, time.time())

    async def _now(self) -> Any:  # noqa: ANN401 - a time of the database
        with translated("reading the time"):
            async with self.engine.connect() as connection:
                return (await connection.exec_driver_sql(_NOW)).scalar_one()

    # -- Postgres is the primary

    async def _to_cosmos(self, pairs: Pairs) -> None:
        for container, its in self._by_container(pairs).items():
            changed = [one for one, (_, found) in its.items() if found.kind is DifferenceKind.DIFFERENT]
            orphans = {one: sight.document for one, (sight, _) in its.items() if sight.held.row is None}
            unknown = {one for one, (sight, _) in its.items() if sight.held.stamp is None}
            with translated(f"repairing what is sent to {container!r}"):
                async with self.engine.begin() as connection:
                    await restamp(connection, self.mappings, changed, self.phase)
                async with self.engine.connect() as connection:
                    barrier = (await read_barrier(connection)).get(container)
                old = {
                    one: found
                    for one, found in orphans.items()
                    if found is not None and one in unknown and _is_before(found, barrier)
                }
                if old:  # reads find them: it is Postgres that lacks them
                    self.backfilled |= old.keys()
                    async with self.engine.begin() as connection:
                        await backfill_documents(
                            connection, self.mappings, container, list(old.values()), self.phase, barrier=barrier
                        )
                versions = {
                    identity: version_claimed(document, self.phase)
                    for identity, document in orphans.items()
                    if document is not None and identity not in old
                }
                async with self.engine.begin() as connection:
                    await bury_absent(connection, self.mappings, versions, self.phase)
        await send(self.engine, self.publisher, list(pairs))

    def _by_container(self, pairs: Pairs) -> dict[str, Pairs]:
        found: dict[str, Pairs] = {}
        for identity, pair in pairs.items():
            found.setdefault(self.mappings.named(identity.entity).container, {})[identity] = pair
        return found


def _is_before(document: Document, barrier: Barrier | None) -> bool:
    """Whether a document is of the time before the switch that left some behind (core.postgres.opening)."""
    return barrier is not None and int(document.get("_ts", 0)) < barrier.before_ts


Pairs = dict["Identity", tuple["Sight", "Difference"]]
