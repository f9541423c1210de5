"""Records the barrier watermarks that the mirror has applied everything up to, and says which those are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.barrier_marks import is_barrier_mark

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.content import Document

# In the order of their ids, as all who write several of them. Nobody asks for what is a day old.
_RECORD = """
    WITH old AS (DELETE FROM crossfeed.watermark_seen WHERE seen_at < clock_timestamp() - interval '1 day')
    INSERT INTO crossfeed.watermark_seen (container, id, etag)
    SELECT %(container)s, id, etag FROM unnest(%(ids)s::text[], %(etags)s::text[]) AS mark(id, etag) ORDER BY id
    ON CONFLICT (container, id, etag) DO NOTHING
"""
_SEEN = "SELECT etag FROM crossfeed.watermark_seen WHERE container = %(container)s AND etag = ANY (%(etags)s)"


async def record_barrier_marks(connection: AsyncConnection, container: str, documents: Sequence[Document]) -> None:
    """Record the barrier watermarks among the documents of a batch, in the very transaction that applies the batch.

    Only a reader that reads each feed range in order, from its beginning, may say this: who has come to the watermark
    has then applied everything that was written to the range before it.
    """
    marks = [document for document in documents if is_barrier_mark(document)]
    if marks:
        facts = {"ids": [mark["id"] for mark in marks], "etags": [str(mark.get("_etag", "")) for mark in marks]}
        await connection.exec_driver_sql(_RECORD, {"container": container, **facts})


async def seen_marks(connection: AsyncConnection, container: str, etags: Collection[str]) -> set[str]:
    """Return those of the ETags that have come out of the feeds of a container.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    found = await connection.exec_driver_sql(_SEEN, {"container": container, "etags": list(etags)})
    return set(found.scalars())
