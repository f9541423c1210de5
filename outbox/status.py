"""Says how the log stands: what has not been sent, who sends it, and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.postgres.phases import read_phase
from outbox.log_reader import sends

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

BOUND = 10_000
"""Up to how many messages of the slots at one cursor are counted."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Messages that wait for a relay.

    `messages` is exact up to BOUND for each cursor, and at least that many above. `oldest_s` is the age of the oldest,
    in seconds; None: nothing waits.
    """

    messages: int = 0
    oldest_s: float | None = None

    def and_(self, other: Backlog) -> Backlog:
        """Return both together."""
        ages = [age for age in (self.oldest_s, other.oldest_s) if age is not None]
        return Backlog(self.messages + other.messages, max(ages, default=None))


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A slot; `carries` is 'states' or 'events'. Its owner is a relay that is alive, for another `lease_s` seconds."""

    slot: int
    carries: str
    owner: str | None
    name: str | None
    lease_s: float | None
    token: int
    backlog: Backlog


@dataclass(frozen=True, slots=True)
class Partition:
    """A range of the log's sequence, `until_seq` excluded; `size_bytes` with its indexes."""

    from_seq: int
    until_seq: int
    in_default: bool
    size_bytes: int


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """How the log stands.

    `states` and `events` wait to be sent in this phase: while Cosmos DB is the primary, what is left of states does
    not. `overflow_bytes` is the size of the default partition: there was no other one in time. `retention_held_s` is
    the alarm: for so many seconds the oldest partition should be gone, but a slot of `held_by` has not sent all of it.
    `unowned` slots have no live relay.
    """

    states: Backlog
    events: Backlog
    slots: tuple[SlotStatus, ...]
    partitions: tuple[Partition, ...]
    overflow_bytes: int
    retention_held_s: float | None
    held_by: tuple[int, ...]
    parked: int
    dead_letters: int
    unowned: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "unowned", sum(slot.owner is None for slot in self.slots))

    @property
    def backlog(self) -> Backlog:
        """Everything that waits for a relay."""
        return self.states.and_(self.events)


_SLOTS = """
    SELECT s.slot, s.carries, r.relay::text, r.name, extract(epoch FROM r.expires_at - clock_timestamp())::float8,
        s.token, coalesce(u.messages, 0), extract(epoch FROM clock_timestamp() - u.oldest)::float8
    FROM crossfeed.slot s LEFT JOIN crossfeed.relay r ON r.relay = s.owner AND r.expires_at > clock_timestamp()
    LEFT JOIN crossfeed.unsent(%(bound)s) u ON u.slot = s.slot ORDER BY s.slot
"""

_PARTITIONS = """
    SELECT from_seq, until_seq, in_default, coalesce(pg_total_relation_size(to_regclass(
        'crossfeed.' || CASE WHEN in_default THEN 'outbox_default' ELSE 'outbox_' || from_seq END)), 0)
    FROM crossfeed.outbox_partition WHERE dropped_at IS NULL ORDER BY from_seq
"""

# A partition that is held has a message that a cursor has not passed, so its slot is among those with a backlog.
_REST = """
    SELECT
        (SELECT pg_relation_size('crossfeed.outbox_default')),
        (SELECT extract(epoch FROM clock_timestamp() - held_since)::float8 FROM crossfeed.outbox_partition
            WHERE dropped_at IS NULL AND held_since IS NOT NULL ORDER BY from_seq LIMIT 1),
        (SELECT count(*) FROM crossfeed.parked),
        (SELECT count(*) FROM crossfeed.dead_letter)
"""


async def read_status(connection: AsyncConnection) -> OutboxStatus:
    """Look at the log. It costs a few milliseconds, whatever the log holds.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    phase = await read_phase(connection)
    slots = []
    for slot, carries, owner, name, lease_s, token, messages, oldest_s in await _rows(
        connection, _SLOTS, {"bound": BOUND}
    ):
        slots.append(SlotStatus(slot, carries, owner, name, lease_s, token, Backlog(messages, oldest_s)))
    partitions = tuple(Partition(*row) for row in await _rows(connection, _PARTITIONS))
    [(overflow_bytes, held_s, parked, dead_letters)] = await _rows(connection, _REST)
    return OutboxStatus(
        states=_sum(slots, "states") if sends(phase) else Backlog(),
        events=_sum(slots, "events"),
        slots=tuple(slots),
        partitions=partitions,
        overflow_bytes=overflow_bytes,
        retention_held_s=held_s,
        held_by=tuple(slot.slot for slot in slots if slot.backlog.messages) if held_s is not None else (),
        parked=parked,
        dead_letters=dead_letters,
    )


def _sum(slots: list[SlotStatus], carries: str) -> Backlog:
    total = Backlog()
    for slot in slots:
        if slot.carries == carries:
            total = total.and_(slot.backlog)
    return total


async def _rows(
    connection: AsyncConnection, sql: str, parameters: dict[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await connection.exec_driver_sql(sql, parameters)]
