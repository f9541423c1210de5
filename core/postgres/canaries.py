"""Keeps what is known of the canaries: changes of our own that cross like everybody's, so that staleness is measured.

What a canary is                    | to Cosmos DB: one per slot           | to Postgres: one per feed range
------------------------------------|--------------------------------------|---------------------------------------
written by                          | the relay that holds the slot        | the processor that holds a container's
                                    |                                      | first range; the timer of the triggers
in the phases                       | 2 (in 3 of the slots of events)      | 1 (the timer: in all, see functions)
as                                  | a message of `crossfeed.outbox`, of  | a document of kind `canary`, its key
                                    | no entity type that could be mapped  | probed into the range
carried by                          | log, cursor and lease of its slot    | feed, page and checkpoint of its range
has crossed when                    | all before it in its slot has, and a | the page that holds it is committed
                                    | document of kind `canary` is written |

A row of `crossfeed.canary` says of each: `written`, which one was written last (its number in the log, its `_etag`);
`seen`, which one crossed last; `crossed_at`, when the newest that crossed was written: what is older than that is on
the other side; `unseen_since`, since when one is on its way. All times are Postgres' own: a document carries the time
at which its writer asked for it. So the age of a part is at most its lag and the time between two canaries, whoever
died: the writer, the carrier, or a store.

- Of a feed only the newest version of a document comes out. So one that is on its way to Postgres is not written again,
  but when it must be lost, or no lag is bearable that long; or behind a steady lag none would ever come out.
- A canary holds nothing up. A relay sends what it finds beside the pages, and what Cosmos DB does not take again, until
  the next one of its slot is there. It never counts as a message, as backlog, or as something that a barrier, a re-sync
  or a marker waits for.
- While a switch drains, none is written (in the log the fence would refuse it), and only one under way can be late.
- An epoch begins anew, as do slots that are cut anew, and what was drained for a switch that was cancelled: how long
  nothing crossed while it was not to is no age.
- Ranges that are split, merged or mapped no more, and slots, leave no row behind; documents expire.
- Several writers, a writer that slept, a message that is read twice: the same few rows and documents, and `crossed_at`
  never goes back, but when the clock does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from core.postgres.dead_letters import Direction
from core.postgres.failures import translated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.canary_marks import SeenCanary

CANARY: Final = "crossfeed:canary"
"""What the log calls the entity type of a canary; `crossfeed.unsent` does not count it."""


@dataclass(frozen=True, slots=True)
class CanaryLag:
    """One slot or feed range.

    Args:
        direction: which way.
        part: for people: `slot 3`, or a container and the number of the canary in it, `Accounts 0`.
        age_s: how old is the oldest change that may not have crossed, in seconds; while a switch drains, for how long
            the canary under way has been.
        lag_s: how long the canary that crossed last was under way, in seconds; None: none has in this epoch.

    """

    direction: Direction
    part: str
    age_s: float
    lag_s: float | None


# Of what is carried in this phase. Of an earlier epoch is what had no writer since. What was on its way before a drain,
# and still is, gains nothing by it.
_AGES = """
    WITH p AS (
        SELECT phase, epoch, state, clock_timestamp() AS now, (
            SELECT at FROM crossfeed.phase_history h WHERE h.epoch = phase.epoch) AS since, (
            SELECT max(ended_at) FROM crossfeed.switch s
            WHERE s.step = 'cancelled' AND s.from_epoch = phase.epoch AND ended_at <= clock_timestamp()) AS undrained
        FROM crossfeed.phase
    ), known AS (
        SELECT c.* FROM crossfeed.canary c JOIN p USING (epoch)
    ), parts AS (
        SELECT 'to_cosmos' AS direction, '' AS container, s.slot::text AS part FROM crossfeed.slot s, p
        WHERE p.phase = 2 OR p.phase = 3 AND s.carries = 'events'
        UNION ALL
        SELECT direction, container, part FROM known, p WHERE p.phase = 1 AND direction = 'to_postgres'
        UNION ALL
        SELECT DISTINCT 'to_postgres', substr(followed.feed, 8), '' FROM p, (
            SELECT unnest(f.feeds) FROM crossfeed.feed_processor f WHERE crossfeed.is_alive(f.expires_at, f.lease_s)
        ) AS followed(feed)
        WHERE p.phase = 1 AND followed.feed LIKE 'mirror/%%' AND NOT EXISTS (
            SELECT FROM known k WHERE k.direction = 'to_postgres' AND k.container = substr(followed.feed, 8))
    )
    SELECT parts.direction, parts.container, parts.part, k.lag_s, k.written IS NOT NULL,
        greatest(0, extract(epoch FROM p.now - CASE p.state
            WHEN 'draining' THEN coalesce(k.unseen_since, p.now)
            ELSE greatest(coalesce(k.crossed_at, p.since),
                CASE WHEN k.unseen_since < p.undrained THEN NULL ELSE p.undrained END) END))::float8
    FROM parts CROSS JOIN p LEFT JOIN known k USING (direction, container, part)
    ORDER BY 1, 2, nullif(regexp_replace(parts.part, '[^0-9]', '', 'g'), '')::numeric, 3
"""

# -- to Postgres. In the order of their ids, as all who lock several rows. A canary may be seen before it is recorded as
# -- written. By its etag, because the clock of Cosmos DB counts whole seconds. One that was written again meanwhile
# -- proves that what is still unseen is younger: a feed that is always a minute late is no feed that stands still.
_SEEN = """
    INSERT INTO crossfeed.canary AS c (direction, container, part, seen, crossed_at, lag_s)
    SELECT 'to_postgres', %(container)s, id, etag, sent, extract(epoch FROM clock_timestamp() - sent)::float8 FROM (
        SELECT id, etag, least(to_timestamp(seconds), clock_timestamp()) AS sent
        FROM unnest(%(ids)s::text[], %(etags)s::text[], %(sent)s::float8[]) AS seen(id, etag, seconds)) AS seen
    ORDER BY id
    ON CONFLICT (direction, container, part) DO UPDATE SET seen = excluded.seen,
        crossed_at = greatest(c.crossed_at, excluded.crossed_at),
        lag_s = CASE WHEN excluded.crossed_at < c.crossed_at THEN c.lag_s ELSE excluded.lag_s END,
        unseen_since = CASE WHEN excluded.seen IS DISTINCT FROM c.written AND excluded.crossed_at < c.at
            AND c.unseen_since IS NOT NULL THEN greatest(c.unseen_since, excluded.crossed_at) END
"""
# What crossed in the future did so before a clock was put back. One who slept with an older epoch has written nothing.
_WRITTEN = """
    INSERT INTO crossfeed.canary AS c (direction, container, part, epoch, written, unseen_since, crossed_at, at)
    SELECT 'to_postgres', %(container)s, id, %(epoch)s::bigint, etag, sent, sent, sent
    FROM unnest(%(ids)s::text[], %(etags)s::text[]) AS written(id, etag),
        to_timestamp(%(sent)s::float8) AS sent
    ORDER BY id
    ON CONFLICT (direction, container, part) DO UPDATE SET epoch = excluded.epoch, written = excluded.written,
        at = excluded.at,
        crossed_at = least(clock_timestamp(), CASE WHEN c.epoch = excluded.epoch THEN c.crossed_at
            ELSE greatest(c.crossed_at, excluded.crossed_at) END),
        lag_s = CASE WHEN c.epoch = excluded.epoch OR c.crossed_at >= excluded.crossed_at THEN c.lag_s END,
        unseen_since = CASE WHEN excluded.written IS DISTINCT FROM c.seen
            THEN coalesce(c.unseen_since, excluded.unseen_since) END
        WHERE c.epoch IS NULL OR c.epoch <= excluded.epoch
"""
# Whoever writes to a container knows all of its ranges, and all containers. Nobody is waited for: the next one does it.
_GONE = """
    DELETE FROM crossfeed.canary c USING (
        SELECT direction, container, part FROM crossfeed.canary
        WHERE direction = 'to_postgres' AND (container <> ALL (%(mapped)s::text[])
            OR container = %(container)s AND part <> ALL (%(ids)s::text[]))
        FOR UPDATE SKIP LOCKED
    ) AS gone
    WHERE (c.direction, c.container, c.part) = (gone.direction, gone.container, gone.part)
"""
_DUE = """
    SELECT wanted.container, coalesce(array_agg(c.part) FILTER (WHERE c.is_held), '{}')
    FROM crossfeed.phase p CROSS JOIN unnest(%(containers)s::text[]) AS wanted(container) LEFT JOIN LATERAL (
        SELECT part, at BETWEEN now - make_interval(secs => %(every_s)s) AND now AS is_fresh, unseen_since IS NOT NULL
            AND at BETWEEN now - make_interval(secs => greatest(%(every_s)s, %(hold_s)s)) AND now AS is_held
        FROM crossfeed.canary k, clock_timestamp() AS now
        WHERE k.direction = 'to_postgres' AND k.container = wanted.container AND k.epoch = p.epoch
            AND k.written IS NOT NULL) AS c ON true
    WHERE %(always)s OR p.phase = 1 AND p.state = 'steady'
    GROUP BY 1 HAVING NOT coalesce(bool_or(c.is_fresh) OR bool_and(c.is_held), false)
    ORDER BY 1
"""
_CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8, epoch FROM crossfeed.phase"
# Where the triggers have a timer, that goes on.
_FORGET = """
    DELETE FROM crossfeed.canary c WHERE direction = %(direction)s
        AND NOT EXISTS (SELECT FROM crossfeed.trigger_progress t WHERE t.container = c.container)
"""


async def read_canaries(connection: AsyncConnection) -> list[CanaryLag]:
    """Return every slot or feed range of the direction that is active in this phase and has a canary in this epoch.

    Empty where nothing is carried, and where canaries are switched off.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    return [lag for lag, is_written in await _ages(connection) if is_written]


def most_age_s(direction: Direction, max_lag_s: float, every_s: float) -> float:
    """Return up to which age (CanaryLag) a direction is well whose changes are `max_lag_s` on their way at most.

    To Cosmos DB one goes every `every_s`, whatever is on its way: the newest that crossed is one of those and its way
    old. To Postgres the next is written when the last has come out (or `every_s` after it, if that is later), and found
    to have: that takes up to `2 * every_s` where a timer does it once a minute. So shortly before it comes out, the
    last one is two ways and that old.
    """
    age_s = max_lag_s + every_s
    return 2 * age_s if direction is Direction.TO_POSTGRES else age_s


async def canary_problems(
    connection: AsyncConnection, direction: Direction, max_lag_s: float, every_s: float
) -> list[str]:
    """Say if the oldest change that may not have crossed is too old; one sentence, for an operator.

    Args:
        connection: to Postgres.
        direction: the caller's; nothing is said while another one is active.
        max_lag_s: how long one may be on its way, in seconds.
        every_s: seconds between two; 0: there are none.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    ages = await _ages(connection) if every_s else []
    most = most_age_s(direction, max_lag_s, every_s)
    late = [(lag, is_written) for lag, is_written in ages if lag.direction is direction and lag.age_s > most]
    if not late:
        return []
    oldest, is_written = max(late, key=lambda item: item[0].age_s)
    others = f", nor {len(late) - 1} others" if len(late) > 1 else ""
    what = "has not crossed" if is_written else "has not been written"
    return [f"the canary of {oldest.part} {what} for {oldest.age_s:.0f} s{others}"]


async def _ages(connection: AsyncConnection) -> list[tuple[CanaryLag, bool]]:
    """Return every part of the active direction, and whether it has a canary in this epoch."""
    rows = [tuple(row) for row in await connection.exec_driver_sql(_AGES, {})]
    return [
        (CanaryLag(Direction(direction), _named(container, part), age_s, lag_s), is_written)
        for direction, container, part, lag_s, is_written, age_s in rows
    ]


def _named(container: str, part: str) -> str:
    return f"{container} {part.rpartition('-')[2]}".rstrip() if container else f"slot {part}"


async def record_seen(connection: AsyncConnection, container: str, seen: Sequence[SeenCanary]) -> None:
    """Record canaries that came out of the feed of a container, in the transaction of their page, as its last thing."""
    if seen:
        ids, etags, sent = zip(*((one.id, one.etag, one.sent) for one in seen), strict=True)
        facts = {"container": container, "ids": list(ids), "etags": list(etags), "sent": list(sent)}
        await connection.exec_driver_sql(_SEEN, facts)


async def clock_and_epoch(engine: AsyncEngine) -> tuple[float, int]:
    """Return Postgres' time, in seconds since 1970, and the epoch: what the canaries that are written next carry.

    Raises:
        StoreUnavailableError: Postgres did not answer.

    """
    [(seconds, epoch)] = await _rows(engine, _CLOCK, {})
    return seconds, epoch


async def record_written(
    engine: AsyncEngine, container: str, mapped: Sequence[str], carried: tuple[float, int], written: Mapping[str, str]
) -> None:
    """Record the canaries that were just written to a container, and forget those of ranges that are no more.

    Args:
        engine: the database.
        container: its name.
        mapped: the names of all mapped containers.
        carried: what they carry, from `clock_and_epoch`.
        written: the `_etag` of each by its id, empty where it was held; one for every feed range that there is.

    Raises:
        StoreUnavailableError: Postgres did not answer.

    """
    sent, epoch = carried
    new = {id_: etag for id_, etag in written.items() if etag}
    facts = {"container": container, "ids": list(new), "etags": list(new.values()), "sent": sent}
    await _rows(engine, _WRITTEN, {**facts, "epoch": epoch})
    await _rows(engine, _GONE, {"container": container, "ids": list(written), "mapped": list(mapped)})


async def containers_due(
    engine: AsyncEngine, containers: Sequence[str], every_s: float, hold_s: float, *, always: bool = False
) -> dict[str, list[str]]:
    """Return those containers that want canaries for their feed ranges now, each with the ids of those that are held.

    One is due after `every_s` seconds; one that has not come out is held for `hold_s` seconds. Only where a processor
    mirrors, unless `always`.

    Raises:
        StoreUnavailableError: Postgres did not answer.

    """
    facts = {"containers": list(containers), "every_s": every_s, "hold_s": hold_s, "always": always}
    return {row[0]: row[1] for row in await _rows(engine, _DUE, facts)}


async def forget(engine: AsyncEngine, direction: Direction) -> None:
    """Forget the canaries of a direction, in which nobody writes any more.

    Raises:
        StoreUnavailableError: Postgres did not answer.

    """
    await _rows(engine, _FORGET, {"direction": direction.value})


async def _rows(engine: AsyncEngine, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    with translated("keeping the canaries"):
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            found = await connection.exec_driver_sql(sql, parameters)
            return [tuple(row) for row in found] if found.returns_rows else []
