"""Records what the triggers of Azure Functions have done, what they fail at, and which canaries they have seen.

The host keeps leases and checkpoints, and tells nobody. What readiness needs is therefore written here: progress in
the transaction of the batch itself, a failure in one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from core.postgres.canaries import record_seen
from core.postgres.failures import translated

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.canary_marks import SeenCanary

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
        canaries: the canaries in it.

    """

    function: str
    container: str
    batch: str
    documents: int
    newest_ts: int
    canaries: Sequence[SeenCanary]

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
        await record_seen(connection, self.container, self.canaries)


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
class ContainerCanaries:
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
    canaries: tuple[ContainerCanaries, ...]


# The last statements of the batch: the row is locked for as long as the commit takes, beside the other leases.
_FORGET_FAILURE = "DELETE FROM crossfeed.trigger_failure WHERE function = %(function)s AND batch = %(batch)s"
_PROGRESS = """
    INSERT INTO crossfeed.trigger_progress AS p (function, container, batches, documents, newest_ts)
    VALUES (%(function)s, %(container)s, 1, %(documents)s, %(newest_ts)s)
    ON CONFLICT (function) DO UPDATE SET container = excluded.container, batches = p.batches + 1,
        documents = p.documents + excluded.documents, newest_ts = greatest(p.newest_ts, excluded.newest_ts),
        at = clock_timestamp()
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
    FROM crossfeed.canary WHERE direction = 'to_postgres' AND written IS NOT NULL GROUP BY container ORDER BY container
"""


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
        tuple(ContainerCanaries(*row) for row in map(tuple, canaries)),
    )
