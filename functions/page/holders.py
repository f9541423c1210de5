"""Says which relays and processors are alive and what each of them holds, and what nobody does."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that is alive for another `lease_s` seconds at least, and how much it holds, by what that is.

    Of a relay `holds` counts slots by what they carry, of a processor feed ranges by their feed.
    """

    name: str
    lease_s: float
    holds: dict[str, int]


@dataclass(frozen=True, slots=True)
class Holders:
    """Relays and processors; `ranges` and `unowned_ranges` count feed ranges by their feed."""

    relays: tuple[Holder, ...]
    processors: tuple[Holder, ...]
    ranges: dict[str, int]
    unowned_ranges: dict[str, int]


_RELAYS = """
    SELECT r.name, extract(epoch FROM r.expires_at - clock_timestamp())::float8, array(
        SELECT s.carries FROM crossfeed.slot s WHERE s.owner = r.relay)
    FROM crossfeed.relay r WHERE crossfeed.is_alive(r.expires_at, r.lease_s) ORDER BY 1, r.relay
"""
_PROCESSORS = """
    SELECT p.name, extract(epoch FROM p.expires_at - clock_timestamp())::float8, array(
        SELECT r.feed FROM crossfeed.feed_range r WHERE r.owner = p.processor)
    FROM crossfeed.feed_processor p WHERE crossfeed.is_alive(p.expires_at, p.lease_s) ORDER BY 1, p.processor
"""
_RANGES = """
    SELECT r.feed, count(*), count(*) FILTER (WHERE NOT EXISTS (
        SELECT FROM crossfeed.feed_processor p
        WHERE p.processor = r.owner AND crossfeed.is_alive(p.expires_at, p.lease_s)))
    FROM crossfeed.feed_range r GROUP BY r.feed ORDER BY r.feed
"""


async def read_holders(connection: AsyncConnection) -> Holders:
    """Look who is alive.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    ranges = [tuple(row) for row in await connection.exec_driver_sql(_RANGES)]
    return Holders(
        await _holders(connection, _RELAYS),
        await _holders(connection, _PROCESSORS),
        {feed: in_all for feed, in_all, _ in ranges},
        {feed: unowned for feed, _, unowned in ranges if unowned},
    )


async def _holders(connection: AsyncConnection, sql: str) -> tuple[Holder, ...]:
    rows = [tuple(row) for row in await connection.exec_driver_sql(sql)]
    return tuple(Holder(name, lease_s, dict(sorted(Counter(held).items()))) for name, lease_s, held in rows)
