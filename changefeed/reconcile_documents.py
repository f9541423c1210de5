"""Reads every document for a reconcile pass: remembers that it is there, and compares its stamp and `_etag`.

The change feed is read from its beginning, range by range. It shows every document that is not written meanwhile
exactly once, follows splits, and its position can be saved; a document that is written meanwhile moves to its end. What
differs from what Postgres holds, and is older than the lag window, is given to the guarded write, which decides: a
change that the mirror has lost, or a write that Cosmos DB should not have taken. While Postgres is the primary, a
document that is older than its row is doubted: what is on its way arrives, what stays is published again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from changefeed.reconcile_state import Counts
from core.content import ENVELOPE, dump
from core.cosmos.feed import FeedRange
from core.envelope import Origin, Ours, author_of, is_internal
from core.errors import DocumentRefusedError
from core.postgres.failures import translated
from core.postgres.standing import read_standings
from core.stamp import Stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.content import Document
    from core.cosmos.feed import FeedPart
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.postgres.standing import Standing

_PUT_RANGES = """
    INSERT INTO crossfeed.reconcile_range (feed_range, token)
    SELECT * FROM unnest(%(keys)s::text[], %(tokens)s::jsonb[])
"""
_NEXT_RANGE = """
    SELECT feed_range, token, continuation FROM crossfeed.reconcile_range WHERE NOT passed ORDER BY 1 LIMIT 1
"""
_MOVE_RANGE = """
    UPDATE crossfeed.reconcile_range SET continuation = %(continuation)s, passed = %(passed)s
    WHERE feed_range = %(key)s
"""
_DROP_RANGE = "DELETE FROM crossfeed.reconcile_range WHERE feed_range = %(key)s"
_PUT_PARTS = """
    INSERT INTO crossfeed.reconcile_range (feed_range, token, continuation)
    SELECT * FROM unnest(%(keys)s::text[], %(tokens)s::jsonb[], %(continuations)s::text[])
"""
_AGAIN = "UPDATE crossfeed.reconcile_range SET passed = false"
_SEE = """
    INSERT INTO crossfeed.reconcile_seen (digest) SELECT unnest(%(digests)s::uuid[]) ORDER BY 1 ON CONFLICT DO NOTHING
"""
# The one read that they need is still to come, a lag window later.
_DOUBT = """
    INSERT INTO crossfeed.reconcile_doubt
        (kind, entity, partition_key, id, epoch, version, etag, document_etag, read_at)
    SELECT 'old', d.*, clock_timestamp()
    FROM unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[], %(epochs)s::bigint[], %(versions)s::bigint[],
        %(etags)s::text[], %(documents)s::text[]) AS d
    ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class OldDocument:
    """A document that is older than what Postgres, the primary, holds of it."""

    identity: Identity
    standing: Standing
    etag: str


@dataclass(slots=True)
class Compared:
    """What one page of documents came to."""

    counts: Counts
    digests: list[str]
    differing: list[Document]
    old: list[OldDocument]


async def put_ranges(connection: AsyncConnection, ranges: Sequence[FeedRange]) -> None:
    """Write down the feed ranges that are to be read."""
    facts = {"keys": [one.key for one in ranges], "tokens": [dump(dict(one.token)) for one in ranges]}
    await connection.exec_driver_sql(_PUT_RANGES, facts)


async def next_range(engine: AsyncEngine) -> tuple[FeedRange, str | None] | None:
    """Return a feed range that is still to be read and where to go on in it, None if there is none."""
    with translated("reading how far the feed was reconciled"):
        async with engine.connect() as connection:
            rows = (await connection.exec_driver_sql(_NEXT_RANGE)).all()
    return next(((FeedRange(key, token), place) for key, token, place in map(tuple, rows)), None)


async def move_range(connection: AsyncConnection, key: str, continuation: str, *, passed: bool) -> None:
    """Write down how far a feed range was read, and whether that was its end."""
    facts = {"key": key, "continuation": continuation, "passed": passed}
    await connection.exec_driver_sql(_MOVE_RANGE, facts)


async def split_range(connection: AsyncConnection, key: str, split: Sequence[FeedPart]) -> None:
    """Put the ranges that a range was split into in its place, each with how far it was read."""
    facts: dict[str, Any] = {
        "key": key,
        "keys": [part.range.key for part in split],
        "tokens": [dump(dict(part.range.token)) for part in split],
        "continuations": [part.continuation for part in split],
    }
    await connection.exec_driver_sql(_DROP_RANGE, facts)
    await connection.exec_driver_sql(_PUT_PARTS, facts)


async def read_again(connection: AsyncConnection) -> None:
    """Let all feed ranges be read on from where they were left."""
    await connection.exec_driver_sql(_AGAIN)


async def keep(connection: AsyncConnection, compared: Compared) -> None:
    """Write down which documents are there, and which are doubted."""
    await connection.exec_driver_sql(_SEE, {"digests": compared.digests})
    if old := compared.old:
        stamps = [one.standing.stamp or Stamp(0, 0) for one in old]
        facts: dict[str, Any] = {
            "entities": [one.identity.entity for one in old],
            "keys": [one.identity.partition_key for one in old],
            "ids": [one.identity.id for one in old],
            "epochs": [stamp.epoch for stamp in stamps],
            "versions": [stamp.version for stamp in stamps],
            "etags": [one.standing.etag for one in old],
            "documents": [one.etag for one in old],
        }
        await connection.exec_driver_sql(_DOUBT, facts)


def digest_of(identity: Identity) -> str:
    """Return what is remembered of a document; see `reconcile_rows` for the same in SQL."""
    text = f"{identity.entity}{identity.partition_key}{identity.id}"
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


class Comparison:
    """Compares pages of one container with what Postgres holds.

    Args:
        engine: the database.
        mappings: all mappings of the process.
        lag_s: how long a change may be under way, in seconds.
        clock: seconds since 1970.

    """

    def __init__(self, engine: AsyncEngine, mappings: Mappings, lag_s: float, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._mappings = mappings
        self._lag_s = lag_s
        self._clock = clock

    async def compare(self, container: str, documents: Sequence[Document], phase: PhaseRow) -> Compared:
        """Say which documents are there, which differ, and which are old.

        Raises:
            StoreUnavailableError: Postgres did not answer.

        """
        found = Compared(Counts(), [], [], [])
        of_type: dict[EntityMapping[Any], dict[Identity, Document]] = {}
        for document in documents:
            self._sort(container, document, of_type, found.counts)
        with translated(f"comparing documents of {container!r}"):
            async with self._engine.connect() as connection:
                for mapping, known in of_type.items():
                    standings = await read_standings(connection, mapping, list(known))
                    for (identity, document), standing in zip(known.items(), standings, strict=True):
                        if standing is None:
                            found.counts.unreadable += 1
                            continue
                        found.digests.append(digest_of(identity))
                        self._judge(identity, document, standing, phase, found)
        return found

    def _sort(
        self,
        container: str,
        document: Document,
        of_type: dict[EntityMapping[Any], dict[Identity, Document]],
        counts: Counts,
    ) -> None:
        if is_internal(document):
            return
        counts.documents += 1
        mapping = self._mappings.mapping_of(container, document)
        if mapping is None:
            counts.unmapped += 1
            return
        try:
            identity = mapping.identity(document)
        except DocumentRefusedError:
            identity = None
        if identity is None or not identity.can_be_stored:
            counts.unreadable += 1
        else:
            of_type.setdefault(mapping, {})[identity] = document

    def _judge(
        self, identity: Identity, document: Document, standing: Standing, phase: PhaseRow, found: Compared
    ) -> None:
        etag = str(document.get("_etag", ""))
        if phase.primary is Origin.COSMOS:
            if standing.etag == etag:
                return
        elif standing.stamp is None:
            # It may be one that the fallback of the reads is to find: only a switch or a re-sync decides over those.
            found.counts.orphans += 1
            return
        elif _claims(document) == standing.stamp or (standing.etag == etag and standing.stamp.epoch < phase.epoch):
            return  # what was published, or what the row was taken from before Postgres became the primary
        if self._clock() - int(document.get("_ts", 0)) < self._lag_s:
            found.counts.recent += 1
            return
        if phase.primary is Origin.COSMOS or not _is_ours_or(document, known=standing.etag == etag):
            found.differing.append(document)
        elif _is_ahead(document, standing):
            found.counts.ahead += 1
        else:
            found.old.append(OldDocument(identity, standing, etag))


def _claims(document: Document) -> Stamp | None:
    """Return the stamp that a document claims, verified or not: contents are compared by `validate`, not here."""
    envelope = document.get(ENVELOPE)
    if not isinstance(envelope, dict):
        return None
    epoch, version = envelope.get("epoch"), envelope.get("version")
    return Stamp(epoch, version) if isinstance(epoch, int) and isinstance(version, int) else None


def _is_ours_or(document: Document, *, known: bool) -> bool:
    """Whether a document is one that the relay wrote, or else one that Postgres knows."""
    author = author_of(document)
    return known or (isinstance(author, Ours) and author.origin is Origin.POSTGRES)


def _is_ahead(document: Document, standing: Standing) -> bool:
    author = author_of(document)
    return isinstance(author, Ours) and standing.stamp is not None and author.stamp > standing.stamp
