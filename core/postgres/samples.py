"""Keeps what status pages plot: lag and throughput of the last quarter of an hour, written by whoever carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from core.postgres.dead_letters import Direction
from core.postgres.failures import translated

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

WINDOW_S: Final = 900
"""How far back a series goes, in seconds."""
BIN_S: Final = 15
"""How long each of its bins is, in seconds."""
BINS: Final = WINDOW_S // BIN_S
_RECENT_S: Final = 45.0
"""How old the last sample of a process may be, in seconds, to count as what it does now."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process says of itself.

    Args:
        lag_s: age of the oldest change that it has not carried, in seconds; None while there is nothing for it to do.
        total: how many changes it has carried since it began.

    """

    lag_s: float | None
    total: int


@dataclass(frozen=True, slots=True)
class Series:
    """One direction, all processes together: bins of BIN_S seconds, the oldest first; None where nobody wrote a sample.

    Args:
        lag_s: the worst lag in each bin, in seconds.
        per_s: changes carried per second in each bin.
        lag_now_s: the worst of the last samples of processes that still write some; None if there are none.
        per_s_now: what they carry together, per second.

    """

    lag_s: tuple[float | None, ...]
    per_s: tuple[float | None, ...]
    lag_now_s: float | None
    per_s_now: float


# Rows that somebody else is purging are left to them. What lies in the future was written by a clock that was put back.
_WRITE = f"""
    WITH old AS (
        DELETE FROM crossfeed.sample WHERE ctid IN (
            SELECT ctid FROM crossfeed.sample
            WHERE at < clock_timestamp() - interval '{2 * WINDOW_S} s' OR at > clock_timestamp() + interval '60 s'
            LIMIT 1000 FOR UPDATE SKIP LOCKED)
    )
    INSERT INTO crossfeed.sample (source, direction, lag_s, total)
    VALUES (%(source)s, %(direction)s, %(lag_s)s::float8, %(total)s)
"""

# A rate is of the time between two samples of one source, so that it does not matter how samples fall into bins. A
# counter that went back began anew.
_COUNTED = f"""
    SELECT direction, source, at, lag_s, greatest(total - lag(total) OVER w, 0) AS done,
        extract(epoch FROM at - lag(at) OVER w)::float8 AS seconds,
        floor(extract(epoch FROM clock_timestamp() - at) / {BIN_S})::int AS bin
    FROM crossfeed.sample
    WHERE at BETWEEN clock_timestamp() - interval '{WINDOW_S + 60} s' AND clock_timestamp()
    WINDOW w AS (PARTITION BY direction, source ORDER BY at)
"""
_BINNED = f"""
    SELECT direction, bin, max(lag_s), sum(per_s) FROM (
        SELECT direction, bin, source, max(lag_s) AS lag_s, sum(done)::float8 / nullif(sum(seconds), 0) AS per_s
        FROM ({_COUNTED}) AS counted WHERE bin BETWEEN 0 AND {BINS - 1} GROUP BY direction, bin, source
    ) AS one GROUP BY direction, bin
"""
_NOW = f"""
    SELECT direction, max(lag_s), coalesce(sum(per_s), 0) FROM (
        SELECT DISTINCT ON (direction, source) direction, lag_s, done::float8 / nullif(seconds, 0) AS per_s
        FROM ({_COUNTED}) AS counted WHERE at > clock_timestamp() - interval '{_RECENT_S} s'
        ORDER BY direction, source, at DESC
    ) AS last GROUP BY direction
"""


async def write_sample(engine: AsyncEngine, source: str, direction: Direction, sample: Sample) -> None:
    """Write a sample, and purge those that nobody will look at any more.

    Args:
        engine: the database.
        source: whose counter it is; another one for every life of a process.
        direction: where it carries to.
        sample: what it says.

    Raises:
        StoreUnavailableError: Postgres did not answer.

    """
    with translated("writing a sample"):
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.exec_driver_sql(
                _WRITE,
                {"source": source, "direction": direction.value, "lag_s": sample.lag_s, "total": sample.total},
            )


async def read_series(connection: AsyncConnection) -> dict[Direction, Series]:
    """Return the series of both directions.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    lags: dict[str, list[float | None]] = {direction.value: [None] * BINS for direction in Direction}
    rates: dict[str, list[float | None]] = {direction.value: [None] * BINS for direction in Direction}
    for direction, back, lag_s, per_s in map(tuple, await connection.exec_driver_sql(_BINNED)):
        lags[direction][BINS - 1 - back] = lag_s
        rates[direction][BINS - 1 - back] = per_s
    now = {row[0]: row[1:] for row in map(tuple, await connection.exec_driver_sql(_NOW))}
    return {
        direction: Series(tuple(lags[direction]), tuple(rates[direction]), *now.get(direction.value, (None, 0.0)))
        for direction in Direction
    }
