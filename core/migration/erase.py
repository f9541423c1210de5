"""Erases one person's document from both stores, and what Crossfeed keeps of it beside them.

    remove    through the primary, as every delete: its tombstone keeps out what is late
    deliver   the other store follows at once, by its guarded write
    sweep     dead letters and whatever is parked go; so do domain events, in their container and, by their data, in the
              log: one that was not sent yet arrives without any; and what is cached
    forget    a partition key that is more than the id (an e-mail, say) gives way to a keyed hash in the tombstone, but
              only when Cosmos DB has let go of its own tombstone, an hour later: until then an entity that is created
              anew under this key has to go on from its version

Each of them may be killed and repeated: run it again until the report is complete.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from core.cosmos.documents import CosmosDocuments
from core.cosmos.event_documents import erase_events
from core.crossfeed import Crossfeed
from core.envelope import Origin, is_deleted
from core.errors import ConfigurationError, ConflictError, StoreUnavailableError
from core.events import carried_by, subject_of
from core.identity import key_text
from core.migration.restate import bury_absent, version_claimed
from core.phases import PhaseState
from core.postgres.failures import translated
from core.postgres.guarded import apply_documents
from core.postgres.held import read_held
from core.postgres.keyset import ERASED
from core.postgres.phases import read_phase

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.mappings import Mappings
    from core.migration.ports import Forgets, Publisher
    from core.phases import PhaseRow
    from core.postgres.held import Held
    from core.repository import UnitOfWork
    from core.settings import Settings

_CACHED: Final = {None: "unreachable", 0: "empty"}

TTL_S: Final = 3600
"""How long the tombstone of an erased document lives in Cosmos DB, in seconds."""

_OF = "entity = %(entity)s AND partition_key = %(partition_key)s AND id = %(id)s"
_SWEPT = {
    "dead_letters": f"DELETE FROM crossfeed.dead_letter WHERE {_OF}",
    "parked_to_cosmos": f"DELETE FROM crossfeed.parked WHERE {_OF}",
    "parked_to_postgres": f"DELETE FROM crossfeed.mirror_parked WHERE {_OF}",
    "doubts": f"DELETE FROM crossfeed.reconcile_doubt WHERE {_OF}",
    "events_taken": f"DELETE FROM crossfeed.event_taken WHERE {_OF}",
    "events_parked_at_handlers": "DELETE FROM crossfeed.inbox_parked WHERE subject = %(subject)s",
    "events_in_the_log": f"""
        UPDATE crossfeed.outbox SET event = (event::jsonb - 'data' - 'data_base64')::json
        WHERE {_OF} AND event_id IS NOT NULL AND event::jsonb ?| ARRAY['data', 'data_base64']
    """,
}
# Messages go by themselves, with their partition of the log; handled events CROSSFEED_CONSUMER_KEEP_S afterwards.
_LEFT = {
    # Its key could not be read, so it may be somebody else's of the same id: an operator has to look at it.
    "dead_letters_of_this_id_without_key": """
        SELECT count(*) FROM crossfeed.dead_letter
        WHERE entity = %(entity)s AND partition_key = '' AND id = %(id)s
    """,
    "messages_that_name_the_key": f"SELECT count(*) FROM crossfeed.outbox WHERE {_OF}",
    "handled_events_that_name_the_key": "SELECT count(*) FROM crossfeed.inbox WHERE subject = %(subject)s",
}
# The same identity may have been erased before: it has the same hash, and the newer tombstone counts.
_FORGET_BEFORE = f"""
    DELETE FROM crossfeed.tombstone d WHERE d.entity = %(entity)s AND d.partition_key = %(hashed)s AND d.id = %(id)s
        AND md5(d.partition_key || d.id)::uuid = md5(%(hashed)s || %(id)s)::uuid
        AND EXISTS (SELECT FROM crossfeed.tombstone WHERE {_OF})
"""
_FORGET = f"UPDATE crossfeed.tombstone SET partition_key = %(hashed)s WHERE {_OF}"
_EXPIRED = f"SELECT at < clock_timestamp() - make_interval(secs => %(ttl_s)s) FROM crossfeed.tombstone WHERE {_OF}"
# The fence and capture are for writers.
_MIRRORING = "SELECT set_config('crossfeed.mirroring', 'on', true)"


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure found, did and proved.

    `row` and `document` say what is left in either store: nothing, or a tombstone (which holds the key and no content;
    `tombstone_expires_in_s` at the latest). `events_in_tombstone` are bodies of domain events that expire with it.
    `key` is 'id' (the key is the id alone), 'hashed', or 'kept' until the tombstone in Cosmos DB has expired. `cache`
    is 'none' (there is none), 'removed', 'empty', or 'unreachable': what it may hold then ends by itself.
    """

    entity: str
    phase: str
    epoch: int
    was_there: bool
    row: str
    document: str
    tombstone_expires_in_s: int | None
    events_in_tombstone: int
    swept: dict[str, int]
    left: dict[str, int]
    key: str
    cache: str
    is_complete: bool

    def facts(self) -> dict[str, Any]:
        """Return it for a report; it names no key and no content."""
        return asdict(self)


async def erase(  # noqa: PLR0913, PLR0917 - what it is wired from
    engine: AsyncEngine,
    store: CosmosStore,
    mappings: Mappings,
    settings: Settings,
    publisher: Publisher,
    identity: Identity,
    cache: Forgets | None = None,
) -> Erased:
    """Erase one document.

    Args:
        engine: the database.
        store: the opened Cosmos DB database.
        mappings: all mappings.
        settings: with `erase_key` where the partition key is more than the id. `tombstone_ttl_s` should be TTL_S, the
            publisher's too.
        publisher: sends the tombstone while Postgres is the primary.
        identity: whose.
        cache: what holds copies of it; None where there is none.

    Raises:
        ConfigurationError: CROSSFEED_ERASE_KEY is not set and needed; nothing was done.
        ConflictError: a switch is under way, or what is sent is refused; run it again.
        OutcomeUnknownError: the delete was not answered; run it again.
        StoreUnavailableError: a store did not answer; run it again.

    """
    is_personal = identity.partition_key != key_text([identity.id])
    if is_personal and settings.erase_key is None:
        msg = (
            f"CROSSFEED_ERASE_KEY is not set: a keyed hash has to stand for the partition key of {identity.entity}"
            " in its tombstone; set it to a long random text, and keep it"
        )
        raise ConfigurationError(msg)
    # What is removed is what the primary holds: what a cache says of it may be older, or that it is not there.
    uncached = settings.model_copy(update={"cache_url": None})
    erasing = _Erasing(engine, store, mappings, uncached, publisher, identity)
    phase = await erasing.phase()
    content = await erasing.remove()
    await erasing.deliver(phase)
    # After both stores: as long as one held it, a reader could have cached it once more.
    cached = "none" if cache is None else _CACHED.get(await cache.erase(identity, content), "removed")
    swept = await erasing.sweep() | {"events": await erase_events(store, identity)}
    document = await erasing.document()
    hashed = is_personal and document is None and await erasing.forget()
    key = "hashed" if hashed else "kept" if is_personal else "id"
    return await erasing.proof(phase, was_there=content is not None, swept=swept, key=key, cached=cached)


@dataclass(frozen=True, slots=True)
class _Erasing:
    engine: AsyncEngine
    store: CosmosStore
    mappings: Mappings
    settings: Settings
    publisher: Publisher
    identity: Identity

    async def phase(self) -> PhaseRow:
        with translated("reading the phase"):
            async with self.engine.connect() as connection:
                phase = await read_phase(connection)
        if phase.state is not PhaseState.STEADY:
            msg = f"a switch is under way in phase {phase.phase.label}; erase when it has ended: crossfeed phase status"
            raise ConflictError(msg)
        return phase

    async def remove(self) -> Document | None:
        """Delete it as the application would, wherever the primary is; return what was there."""
        mapping, identity = self.mappings.named(self.identity.entity), self.identity

        async def use_case(work: UnitOfWork) -> Document | None:
            repository = work[mapping.model]
            found = await repository.get_by_id(identity.id, partition_key=identity.parts)
            if found is not None:
                await repository.delete(found)
                await work.commit()
            return None if found is None else mapping.document(found)

        async with Crossfeed.open(self.settings, self.mappings) as db:
            return await db.transact(use_case)

    async def deliver(self, phase: PhaseRow) -> None:
        """Give the delete to the other store, without waiting for relay or mirror."""
        document = await self.document()
        if phase.primary is Origin.COSMOS:
            await self._bury_row(phase, document)
            return
        if document is not None and not is_deleted(document) and (await self._held()).stamp is None:
            # Cosmos DB has what Postgres never had: its tombstone comes from here as well.
            with translated("burying what Postgres never had"):
                async with self.engine.begin() as connection:
                    version = version_claimed(document, phase)
                    await bury_absent(connection, self.mappings, {self.identity: version}, phase)
        if (await self._held()).tombstone is not None and not (document is None and await self._has_expired()):
            refused = (await self.publisher.publish([self.identity]))[self.identity]
            if refused is not None:
                msg = f"Cosmos DB did not take the delete: {refused}"
                raise ConflictError(msg)

    async def _has_expired(self) -> bool:
        """Whether the tombstone is so old that Cosmos DB has let go of its own, which was written at once."""
        with translated("looking at the tombstone"):
            async with self.engine.connect() as connection:
                found = await connection.exec_driver_sql(_EXPIRED, {**self._names(), "ttl_s": TTL_S})
                return bool(found.scalar())

    async def _bury_row(self, phase: PhaseRow, document: Document | None) -> None:
        if document is None:
            if (await self._held()).row is not None:
                msg = "Postgres has a row of what Cosmos DB has not: run `crossfeed reconcile`, then this again"
                raise ConflictError(msg)
            return
        container = self.mappings.named(self.identity.entity).container
        reader = CosmosDocuments(self.store, self.mappings)
        with translated("removing the row"):
            async with self.engine.begin() as connection:
                await apply_documents(connection, self.mappings, container, [document], phase, reader)

    async def sweep(self) -> dict[str, int]:
        """Remove what is kept beside the stores; return how much of each kind there was."""
        with translated("sweeping what is kept beside the stores"):
            async with self.engine.begin() as connection:
                await connection.exec_driver_sql(_MIRRORING)
                return {
                    kind: (await connection.exec_driver_sql(sql, self._names())).rowcount
                    for kind, sql in _SWEPT.items()
                }

    async def document(self) -> Document | None:
        """Read the document by its key."""
        return await CosmosDocuments(self.store, self.mappings).read(self.identity)

    async def forget(self) -> bool:
        """Put a keyed hash in the place of the tombstone's partition key; return whether there is one or was none."""
        key = self.settings.erase_key
        if key is None:
            return False
        digest = hmac.new(key.get_secret_value().encode(), str(self.identity).encode(), hashlib.sha256).hexdigest()
        with translated("hashing the key of the tombstone"):
            async with self.engine.begin() as connection:
                names = {**self._names(), "hashed": key_text([f"{ERASED}{digest}"])}
                await connection.exec_driver_sql(_FORGET_BEFORE, names)
                await connection.exec_driver_sql(_FORGET, names)
        return True

    async def proof(self, phase: PhaseRow, *, was_there: bool, swept: dict[str, int], key: str, cached: str) -> Erased:
        """Look once more at everything."""
        document, held = await self.document(), await self._held()
        if held.row is not None or (document is not None and not is_deleted(document)):
            msg = f"{self.identity.entity}: it is there again, somebody writes it; stop that and run it again"
            raise StoreUnavailableError(msg)
        with translated("looking at what is left"):
            async with self.engine.connect() as connection:
                left = {kind: await self._count(connection, sql) for kind, sql in _LEFT.items()}
        return Erased(
            self.identity.entity,
            phase.phase.label,
            phase.epoch,
            was_there,
            row="nothing" if held.tombstone is None else "tombstone",
            document="nothing" if document is None else "tombstone",
            tombstone_expires_in_s=None if document is None else int(document.get("ttl", TTL_S)),
            events_in_tombstone=0 if document is None else len(carried_by(document)),
            swept=swept,
            left=left,
            key=key,
            cache=cached,
            is_complete=key != "kept" and document is None and cached != "unreachable",
        )

    async def _held(self) -> Held:
        with translated("reading what Postgres holds"):
            async with self.engine.connect() as connection:
                [held] = await read_held(connection, self.mappings.named(self.identity.entity), [self.identity])
        return held

    async def _count(self, connection: AsyncConnection, sql: str) -> int:
        return int((await connection.exec_driver_sql(sql, self._names())).scalar_one())

    def _names(self) -> dict[str, Any]:
        return {**self.identity._asdict(), "subject": subject_of(self.identity)}
