"""Holds a fair share of the slots for one relay (core.postgres.leases says how)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from core.clock import boot_clock
from core.postgres.leases import LeaseKeeper, LeaseLostError
from outbox.cursor import Carries, Cursor, SlotGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.settings import Settings


@dataclass(frozen=True, slots=True)
class Lease:
    """One slot that is held, with the cursor that it was taken with."""

    slot: int
    carries: Carries
    token: int
    cursor: Cursor
    server: str

    @property
    def key(self) -> int:
        """The slot."""
        return self.slot


_LOOK = """
    SELECT (SELECT count(*) FROM crossfeed.relay r
            WHERE r.relay = %(me)s OR crossfeed.is_alive(r.expires_at, r.lease_s)),
        (SELECT coalesce(array_agg(DISTINCT s.carries), '{}') FROM crossfeed.slot s
            WHERE NOT EXISTS (SELECT FROM crossfeed.relay r WHERE r.relay = s.owner))
"""

_RELEASE = """
    UPDATE crossfeed.slot s SET owner = NULL, token = s.token + 1
    FROM unnest(%(slots)s::smallint[], %(tokens)s::bigint[]) AS mine(slot, token)
    WHERE s.slot = mine.slot AND s.token = mine.token
"""


class Leases(LeaseKeeper[Lease]):
    """The leases of one relay.

    Args:
        engine: the database whose slots they are.
        settings: `relay_lease_s`.
        clock: seconds that count suspend.
        name: of this relay, for people; the host and process by default.

    """

    keep: ClassVar[str] = "SELECT * FROM crossfeed.keep_leases(%(me)s, %(name)s, %(lease)s)"
    look: ClassVar[str] = _LOOK
    leave: ClassVar[str] = "DELETE FROM crossfeed.relay WHERE relay = %(me)s"
    who: ClassVar[str] = "relay"

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        clock: Callable[[], float] = boot_clock,
        name: str | None = None,
    ) -> None:
        super().__init__(engine, settings.relay_lease_s, clock, name)

    def parse(self, rows: Sequence[tuple[Any, ...]]) -> tuple[int, int, list[Lease]]:
        """See LeaseKeeper."""
        relays, share = rows[0][:2]
        return (
            relays,
            share,
            [
                Lease(slot, Carries(carries), token, Cursor.parse(seen, target, position), server)
                for _, _, server, slot, carries, token, seen, target, position in rows
                if slot is not None
            ],
        )

    def may_take(self, rows: Sequence[tuple[Any, ...]]) -> bool:
        """See LeaseKeeper."""
        [(relays, free)] = rows
        counts = Counter(lease.carries for lease in self.held)
        return relays != self._holders or any(counts[Carries(kind)] < self._share for kind in free)

    async def let_go(self, connection: AsyncConnection, leases: Sequence[Lease]) -> None:
        """See LeaseKeeper."""
        await connection.exec_driver_sql(
            _RELEASE, {"slots": [lease.slot for lease in leases], "tokens": [lease.token for lease in leases]}
        )

    @property
    def surplus(self) -> tuple[Lease, ...]:
        """See LeaseKeeper; a fair share of each kind."""
        counts: Counter[Carries] = Counter()
        extra = []
        for lease in self.held:
            counts[lease.carries] += 1
            if counts[lease.carries] > self._share:
                extra.append(lease)
        return tuple(extra)

    def guard(self, group: SlotGroup) -> Callable[[], None]:
        """Return a `check` that also fails once the group lost one of its slots."""

        def check() -> None:
            self.check()
            for slot, token in zip(group.slots, group.tokens, strict=True):
                if not self.is_held(slot, token):
                    msg = f"slot {slot} is another relay's, or was set back"
                    raise LeaseLostError(msg)

        return check


def grouped(leases: Sequence[Lease]) -> list[SlotGroup]:
    """Put slots of one kind that stand at the same cursor together."""
    found: dict[tuple[Carries, Cursor, str], list[Lease]] = {}
    for lease in sorted(leases, key=lambda lease: lease.slot):
        found.setdefault((lease.carries, lease.cursor, lease.server), []).append(lease)
    return [
        SlotGroup(tuple(one.slot for one in of), cursor, carries, tuple(one.token for one in of), server)
        for (carries, cursor, server), of in found.items()
    ]
