"""One round of catching up: sends every state that differs, and gives every document without a row its tombstone.

A tombstone in both stores, never a DELETE: so that whoever comes late is refused by it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from core.migration.parity import DifferenceKind
from core.migration.sending import send
from core.postgres.dead_letters import identity_columns
from core.postgres.failures import translated
from core.postgres.guarded import lock_and_check, lock_identities
from core.postgres.held import read_held
from core.postgres.keyset import tombstones_after
from core.postgres.mirrored_rows import heal
from core.postgres.standing import read_standings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.migration.parity import Difference
    from core.migration.ports import Publisher
    from core.phases import PhaseRow

log = structlog.get_logger()

PART: Final = 200
"""How many differences are sent at once, and so how many are in memory."""


@dataclass(slots=True)
class Sent:
    """What was done, counted: states that were sent, and documents that got their tombstone because no row has them.

    `young` were changed since the round before the last; the log has them. `refused` are dead letters by now.
    `unreadable` documents have a key that no row can have. `begun` is what the last round could see, as
    `pg_current_snapshot` spells it.
    """

    rounds: int = 0
    begun: str = ""
    sent: int = 0
    tombstoned: int = 0
    young: int = 0
    unreadable: int = 0
    refused: dict[Identity, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**asdict(self), "refused": {str(identity): reason for identity, reason in self.refused.items()}}


async def _snapshot(engine: AsyncEngine) -> str:
    with translated("reading the snapshot"):
        async with engine.connect() as connection:
            snapshot: str = (await connection.exec_driver_sql("SELECT pg_current_snapshot()::text")).scalar_one()
    return snapshot


_PRIMARY_SINCE = "SELECT coalesce(max(epoch), 0) + 1 FROM crossfeed.phase_history WHERE phase < 2"

# By the index on xid: what a snapshot did not see is above it, or in its list.
_YOUNG = """
    WITH young AS MATERIALIZED (
        SELECT entity, partition_key, id FROM crossfeed.outbox
        WHERE event_id IS NULL AND xid >= pg_snapshot_xmax(%(since)s::pg_snapshot)
        UNION ALL
        SELECT entity, partition_key, id FROM crossfeed.outbox
        WHERE event_id IS NULL AND xid = ANY (ARRAY(SELECT pg_snapshot_xip(%(since)s::pg_snapshot)))
    )
    SELECT DISTINCT place - 1
    FROM unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[])
        WITH ORDINALITY AS asked(entity, partition_key, id, place)
    JOIN young USING (entity, partition_key, id)
"""


@dataclass(slots=True)
class Round:
    """One round after the other.

    Args:
        engine: the database.
        mappings: all mappings of the process.
        publisher: sends single documents.
        phase: the recorded phase; Postgres is the primary in it.
        sent: counts what all of them did.

    """

    engine: AsyncEngine
    mappings: Mappings
    publisher: Publisher
    phase: PhaseRow
    sent: Sent

    async def run(self, differences: AsyncIterator[Difference], since: str | None) -> list[Identity]:
        """Send what differs; return what neither a refusal explains nor a change that the snapshot `since` misses."""
        self.sent.begun = await _snapshot(self.engine)
        self.sent.rounds += 1
        self.sent.young = self.sent.unreadable = 0
        if self.sent.rounds == 1:
            await self._send_tombstones()
        unexplained: list[Identity] = []
        part: list[Difference] = []
        async for difference in differences:
            if not difference.identity.partition_key:  # nobody reads it by its key, and no row can have it
                self.sent.unreadable += 1
                continue
            part.append(difference)
            if len(part) == PART:
                unexplained += await self._send(part, since)
                part = []
        unexplained += await self._send(part, since)
        log.info(
            "catch_up.round",
            number=self.sent.rounds,
            sent=self.sent.sent,
            tombstoned=self.sent.tombstoned,
            young=self.sent.young,
            unexplained=len(unexplained),
        )
        return unexplained

    async def _send_tombstones(self) -> None:
        """Send the tombstones of everything that was deleted since Postgres is the primary.

        Of what was created and deleted without Cosmos DB, neither store has a document to compare. But a relay that
        slept since before may still be about to create it, and nothing else would refuse that. (A tombstone that Cosmos
        DB refuses is of a key that no document can have.)
        """
        for mapping in self.mappings:
            place: Mapping[str, Any] | None = None
            while True:
                with translated(f"reading tombstones of {mapping.name}"):
                    async with self.engine.connect() as connection:
                        since: int = (await connection.exec_driver_sql(_PRIMARY_SINCE)).scalar_one()
                        page = await tombstones_after(connection, mapping, place, PART, since)
                if not page.identities:
                    break
                await self.publisher.publish(page.identities)
                place = page.place

    async def _send(self, part: Sequence[Difference], since: str | None) -> list[Identity]:
        if not part:
            return []
        identities = [difference.identity for difference in part]
        young = await self._young(identities, since) if since is not None else set()
        self.sent.young += len(young)
        await self._heal([one.identity for one in part if one.kind is DifferenceKind.EXTRA], absent_only=True)
        if since is not None:  # sent before, and in vain: a stamp stands in its way that only one of this epoch passes
            await self._heal([identity for identity in identities if identity not in young], absent_only=False)
        refused = await send(self.engine, self.publisher, identities)
        self.sent.refused |= refused
        self.sent.sent += len(identities) - len(refused)
        return [identity for identity in identities if identity not in young and identity not in refused]

    async def _young(self, identities: Sequence[Identity], since: str) -> set[Identity]:
        with translated("reading what was changed meanwhile"):
            async with self.engine.connect() as connection:
                parameters = {**identity_columns(identities), "since": since}
                places = (await connection.exec_driver_sql(_YOUNG, parameters)).scalars()
                return {identities[place] for place in places}

    async def _heal(self, identities: Sequence[Identity], *, absent_only: bool) -> None:
        """Give documents without row and tombstone their tombstone, and all of them a new stamp unless `absent_only`.

        Under the locks of the guarded write: whoever adds the entity at the same time is stamped behind the tombstone,
        or lifted above it by whoever sends it.
        """
        by_container: dict[str, list[Identity]] = {}
        for identity in identities:
            by_container.setdefault(self.mappings.named(identity.entity).container, []).append(identity)
        for container, its in by_container.items():
            with translated(f"writing tombstones of {container!r}"):
                async with self.engine.begin() as connection:
                    await lock_and_check(connection, self.mappings.in_container(container), self.phase)
                    await lock_identities(connection, its)
                    for mapping in self.mappings.in_container(container):
                        of_type = [identity for identity in its if identity.entity == mapping.name]
                        await self._heal_type(connection, mapping, of_type, absent_only=absent_only)

    async def _heal_type(
        self,
        connection: AsyncConnection,
        mapping: EntityMapping[Any],
        of_type: Sequence[Identity],
        *,
        absent_only: bool,
    ) -> None:
        standings = await read_standings(connection, mapping, of_type)
        possible = [one for one, standing in zip(of_type, standings, strict=True) if standing is not None]
        for held in await read_held(connection, mapping, possible):
            is_absent = held.stamp is None
            if is_absent or not absent_only:
                await heal(connection, mapping, held)
            self.sent.tombstoned += is_absent
