"""Records what the triggers of Azure Functions have done, what they fail at, and which canaries they have seen.

The host keeps leases and checkpoints, and tells nobody. What readiness needs is therefore written here: progress in
the transaction of the batch itself, a failure in one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from core.postgres.failures import translated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

STALE_S: Final = 600.0
"""After how long without another attempt a failure says nothing any more, in seconds: its batch was cut otherwise."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One batch that a trigger was handed.

    Args:
        function: the trigger's name.
        container: whose feed it is of.
        batch: a name of the batch that its redelivery has as well.
        documents: how many there are.
        newest_ts: the newest `_ts`, whole seconds since 1970.
        canaries: `_etag` and `_ts` of every canary in it, by its id.

    """

    function: str
    container: str
    batch: str
    documents: int
    newest_ts: int
    canaries: Mapping[str, tuple[str, int]]

    async def acknowledge(self, connection: AsyncConnection) -> None:
        """Record the batch as done, in its own transaction."""
        parameters: dict[str, Any] = {
            "function": self.function,
            "container": self.container,
            "batch": self.batch,
            "documents": self.documents,
            "newest_ts": self.newest_ts,
        }
        await connection.exec_driver_sql(_FORGET_FAILURE, parameters)
        await connection.exec_driver_sql(_PROGRESS, parameters)
        if self.canaries:
            etags, ts = map(list, zip(*self.canaries.values(), strict=True))
            seen = {"ids": list(self.canaries), "seen": etags, "ts": ts, "container": self.container}
            await connection.exec_driver_sql(_SEEN, seen)


@dataclass(frozen=True, slots=True)
class Progress:
    """What one trigger has done since its row was made; `at` is its last batch."""

    function: str
    container: str
    batches: int
    documents: int
    newest_ts: int
    at: datetime
    age_s: float


@dataclass(frozen=True, slots=True)
class Failing:
    """The batch that a trigger has failed at for the longest time, in seconds; `error` is the class of its error."""

    function: str
    error: str
    attempts: int
    for_s: float


@dataclass(frozen=True, slots=True)
class CanaryLag:
    """For how long the oldest canary of a container has not come out, in seconds, and how long ago one was written."""

    container: str
    ranges: int
    unseen_s: float
    written_s: float


@dataclass(frozen=True, slots=True)
class TriggerStatus:
    """How all triggers are doing."""

    progress: tuple[Progress, ...]
    failing: tuple[Failing, ...]
    canaries: tuple[CanaryLag, ...]


# The last statements of the batch: the row is locked for as long as the commit takes, beside the other leases.
_FORGET_FAILURE = "DELETE FROM crossfeed.trigger_failure WHERE function = %(function)s AND batch = %(batch)s"
_PROGRESS = """
    INSERT INTO crossfeed.trigger_progress AS p (function, container, batches, documents, newest_ts)
    VALUES (%(function)s, %(container)s, 1, %(documents)s, %(newest_ts)s)
    ON CONFLICT (function) DO UPDATE SET container = excluded.container, batches = p.batches + 1,
        documents = p.documents + excluded.documents, newest_ts = greatest(p.newest_ts, excluded.newest_ts),
        at = clock_timestamp()
"""
# In the order of their ids, as all who lock several of them. A canary may be seen before it is recorded as written. By
# its etag, because the clock of Cosmos DB counts whole seconds, and may step back. One that was written again meanwhile
# proves that what is still unseen is younger: a feed that is always a minute late is no feed that stands still.
_SEEN = """
    INSERT INTO crossfeed.canary AS c (container, id, seen_etag)
    SELECT %(container)s, id, etag FROM unnest(%(ids)s::text[], %(seen)s::text[]) AS seen(id, etag) ORDER BY id
    ON CONFLICT (container, id) DO UPDATE SET seen_etag = excluded.seen_etag,
        unseen_since = CASE WHEN excluded.seen_etag IS DISTINCT FROM c.written_etag THEN greatest(c.unseen_since, (
            SELECT least(to_timestamp(ts), clock_timestamp())
            FROM unnest(%(ids)s::text[], %(ts)s::bigint[]) AS written(id, ts)
            WHERE written.id = c.id AND c.unseen_since IS NOT NULL
        )) END
"""
_WRITTEN = """
    INSERT INTO crossfeed.canary AS c (container, id, written_etag, unseen_since)
    SELECT %(container)s, id, etag, clock_timestamp()
    FROM unnest(%(ids)s::text[], %(written)s::text[]) AS written(id, etag) ORDER BY id
    ON CONFLICT (container, id) DO UPDATE SET written_etag = excluded.written_etag, at = clock_timestamp(),
        unseen_since = CASE WHEN excluded.written_etag IS DISTINCT FROM c.seen_etag
            THEN coalesce(c.unseen_since, excluded.unseen_since) END
"""
_FAILED = """
    INSERT INTO crossfeed.trigger_failure AS f (function, batch, error) VALUES (%(function)s, %(batch)s, %(error)s)
    ON CONFLICT (function, batch) DO UPDATE
        SET error = excluded.error, attempts = f.attempts + 1, at = clock_timestamp()
"""
_READ_PROGRESS = """
    SELECT function, container, batches, documents, newest_ts, at,
        extract(epoch FROM clock_timestamp() - at)::float8
    FROM crossfeed.trigger_progress ORDER BY function
"""
_READ_FAILING = """
    SELECT DISTINCT ON (function) function, error, attempts, extract(epoch FROM clock_timestamp() - since)::float8
    FROM crossfeed.trigger_failure WHERE at > clock_timestamp() - make_interval(secs => %(stale_s)s)
    ORDER BY function, since
"""
_READ_CANARIES = """
    SELECT container, count(*), coalesce(extract(epoch FROM clock_timestamp() - min(unseen_since)), 0)::float8,
        extract(epoch FROM clock_timestamp() - max(at))::float8
    FROM crossfeed.canary GROUP BY container ORDER BY container
"""


async def record_canaries(engine: AsyncEngine, container: str, written: Iterable[tuple[str, str]]) -> None:
    """Record canaries that were just written, each as (id, `_etag`).

    Raises:
        StoreUnavailableError: Postgres did not answer.

    """
    ids, etags = zip(*written, strict=True)
    with translated(f"recording the canaries of {container!r}"):
        async with engine.begin() as connection:
            parameters = {"container": container, "ids": list(ids), "written": list(etags)}
            await connection.exec_driver_sql(_WRITTEN, parameters)


async def record_failure(engine: AsyncEngine, function: str, batch: str, error: str) -> None:
    """Count a failed attempt at a batch.

    Raises:
        StoreUnavailableError: Postgres did not answer.

    """
    with translated("recording a failure"):
        async with engine.begin() as connection:
            await connection.exec_driver_sql(_FAILED, {"function": function, "batch": batch, "error": error})


async def read_triggers(connection: AsyncConnection) -> TriggerStatus:
    """Say how all triggers are doing.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    progress = await connection.exec_driver_sql(_READ_PROGRESS)
    failing = await connection.exec_driver_sql(_READ_FAILING, {"stale_s": STALE_S})
    canaries = await connection.exec_driver_sql(_READ_CANARIES)
    return TriggerStatus(
        tuple(Progress(*row) for row in map(tuple, progress)),
        tuple(Failing(*row) for row in map(tuple, failing)),
        tuple(CanaryLag(*row) for row in map(tuple, canaries)),
    )
