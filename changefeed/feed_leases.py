"""Holds a fair share of the feed ranges for one processor (core.postgres.leases says how)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from core.clock import boot_clock
from core.cosmos.feed import FeedRange
from core.postgres.failures import translated
from core.postgres.leases import LeaseKeeper, LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


@dataclass(frozen=True, slots=True)
class FeedLease:
    """One range of one feed that is held."""

    feed: str
    range: FeedRange
    token: int

    @property
    def key(self) -> tuple[str, str]:
        """The feed's name and the range's."""
        return self.feed, self.range.key

    @property
    def where(self) -> dict[str, Any]:
        """The parameters that name its row and its token."""
        return {"feed": self.feed, "lower": self.range.lower, "upper": self.range.upper, "token": self.token}


# A process that is leaving follows no feed, and is no reason for a heartbeat.
_LOOK = """
    SELECT (SELECT count(*) FROM crossfeed.feed_processor p WHERE p.feeds <> '{}'
            AND (p.processor = %(me)s OR crossfeed.is_alive(p.expires_at, p.lease_s))),
        EXISTS (SELECT FROM crossfeed.feed_range r WHERE r.feed = ANY (%(feeds)s)
            AND NOT EXISTS (SELECT FROM crossfeed.feed_processor p WHERE p.processor = r.owner)),
        (SELECT coalesce(sum(r.token), 0) FROM crossfeed.feed_range r WHERE r.owner = %(me)s)
"""

_RELEASE = """
    UPDATE crossfeed.feed_range r SET owner = NULL, token = nextval('crossfeed.feed_token')
    FROM unnest(%(feeds)s::text[], %(lowers)s::text[], %(uppers)s::text[], %(tokens)s::bigint[])
        AS mine(feed, lower_bound, upper_bound, token)
    WHERE (r.feed, r.lower_bound, r.upper_bound, r.token) = (mine.feed, mine.lower_bound, mine.upper_bound, mine.token)
"""

_TAKE_ALL = "SELECT crossfeed.take_feed_ranges(%(me)s, %(name)s, %(lease)s, %(feeds)s)"


class FeedLeases(LeaseKeeper[FeedLease]):
    """The leases of one processor.

    Args:
        engine: the database that they are kept in.
        feeds: the names of the feeds that it can read.
        lease_s: seconds that a silent processor keeps its ranges.
        clock: seconds that count suspend.
        name: of this processor, for people; the host and process by default.

    """

    keep: ClassVar[str] = (
        "SELECT * FROM crossfeed.keep_feed_leases(%(me)s, %(name)s, %(lease)s, %(feeds)s, %(leaving)s)"
    )
    look: ClassVar[str] = _LOOK
    leave: ClassVar[str] = "DELETE FROM crossfeed.feed_processor WHERE processor = %(me)s"
    who: ClassVar[str] = "processor"

    def __init__(
        self,
        engine: AsyncEngine,
        feeds: Iterable[str],
        lease_s: float,
        clock: Callable[[], float] = boot_clock,
        name: str | None = None,
    ) -> None:
        super().__init__(engine, lease_s, clock, name)
        self._feeds = sorted(feeds)
        self._is_leaving = False

    def parameters(self) -> Mapping[str, Any]:
        """See LeaseKeeper."""
        return {"feeds": self._feeds, "leaving": self._is_leaving}

    def parse(self, rows: Sequence[tuple[Any, ...]]) -> tuple[int, int, list[FeedLease]]:
        """See LeaseKeeper."""
        processors, share = rows[0][:2]
        return (
            processors,
            share,
            [
                FeedLease(feed, FeedRange.between(lower, upper), token)
                for _, _, feed, lower, upper, token in rows
                if feed is not None
            ],
        )

    def may_take(self, rows: Sequence[tuple[Any, ...]]) -> bool:
        """See LeaseKeeper. Tokens are never given out twice, so their sum tells whether all are those that are held."""
        [(processors, is_one_free, tokens)] = rows
        if tokens != sum(lease.token for lease in self.held):
            return True
        return not self._is_leaving and (processors != self._holders or (is_one_free and len(self.held) < self._share))

    async def let_go(self, connection: AsyncConnection, leases: Sequence[FeedLease]) -> None:
        """See LeaseKeeper."""
        await connection.exec_driver_sql(
            _RELEASE,
            {
                "feeds": [lease.feed for lease in leases],
                "lowers": [lease.range.lower for lease in leases],
                "uppers": [lease.range.upper for lease in leases],
                "tokens": [lease.token for lease in leases],
            },
        )

    @property
    def surplus(self) -> tuple[FeedLease, ...]:
        """See LeaseKeeper; what the most others may read goes first."""
        return self.held[self._share :] if not self._is_leaving else ()

    def check_held(self, lease: FeedLease) -> None:
        """Return if this processor may act for a range now.

        Raises:
            LeaseLostError: it may be another's by now.

        """
        self.check()
        if not self.is_held(lease.key, lease.token):
            msg = f"{lease.feed} {lease.range.key} is another processor's"
            raise LeaseLostError(msg)

    def begin_to_leave(self) -> Coroutine[Any, Any, None]:
        """Take nothing any more, from this call on; when it is done, others may take what is let go, piece by piece.

        Raises:
            TransientError: Postgres did not answer; others take it when this processor has left.

        """
        self._is_leaving = True
        return self.renew()

    async def hand_over(self) -> None:
        """See LeaseKeeper."""
        try:
            await super().hand_over()
        finally:
            self._is_leaving = False

    async def take_all(self) -> None:
        """Take every range of the feeds, also from processors that are alive: their tokens are worth nothing then.

        Raises:
            TransientError: Postgres did not answer.

        """
        parameters = {"me": self.holder_id, "name": self._name, "lease": self._lease_s, "feeds": self._feeds}
        with translated("taking all feed ranges"):
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.exec_driver_sql(_TAKE_ALL, parameters)
        await self.renew()
