"""What the tests of parking share: the relay's transactions, without a relay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.cosmos.event_sink import EventMessage
from core.identity import Identity
from outbox.parked_events import EventFailure, due_events, park_events, parked_aggregates, settle_events
from outbox.parking import (
    DueState,
    Failure,
    ParkingPolicy,
    due_states,
    hold,
    park_states,
    resolve_states,
    settle,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

SLOTS = tuple(range(16))
EVENT_SLOTS = tuple(range(16, 32))
POLICY = ParkingPolicy(attempts=3, first_s=100, longest_s=400, idle_s=10)


def account(number: int) -> Identity:
    return Identity("Account", f'["acc-{number}"]', f"acc-{number}")


def refusals(*numbers: int) -> list[Failure]:
    return [Failure(account(number), "refused by its own fault", counts=True) for number in numbers]


def event(seq: int, number: int) -> EventMessage:
    """The event of an account at a place in the log."""
    return EventMessage(seq, account(number), f"event-{seq}", f'{{"id":"event-{seq}","n":1.50}}', f"trace-{seq}", 0.0)


@dataclass
class Parking:
    """Does what a relay does at the end of a page and of a retry, in one transaction each."""

    engine: AsyncEngine
    policy: ParkingPolicy = POLICY

    async def park(self, failures: Sequence[Failure]) -> list[Identity]:
        async with self.engine.begin() as connection:
            assert await hold(connection, dict.fromkeys(SLOTS, 0), self.policy)
            return await park_states(connection, failures, self.policy)

    async def settle(self, *identities: Identity) -> None:
        async with self.engine.begin() as connection:
            assert await hold(connection, dict.fromkeys(SLOTS, 0), self.policy)
            await settle(connection, identities)

    async def due(self, limit: int = 100) -> list[DueState]:
        async with self.engine.connect() as connection:
            return await due_states(connection, SLOTS, limit, self.policy)

    async def resolve(self, due: Sequence[DueState], failures: Sequence[Failure] = ()) -> list[Identity]:
        async with self.engine.begin() as connection:
            assert await hold(connection, dict.fromkeys(SLOTS, 0), self.policy)
            return await resolve_states(connection, due, failures, self.policy)

    async def all_due(self) -> None:
        """Let the time pass that everything waits for, but for what waits behind another."""
        async with self.engine.begin() as connection:
            await connection.exec_driver_sql(
                "UPDATE crossfeed.parked SET retry_at = clock_timestamp() WHERE retry_at < 'infinity'"
            )

    async def parked(self) -> list[tuple[Any, ...]]:
        """Id, attempts and wait in seconds of everything parked."""
        return await self.rows(
            "SELECT id, attempts, extract(epoch FROM retry_at - last_at)::float8 FROM crossfeed.parked ORDER BY number"
        )

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        async with self.engine.connect() as connection:
            return [tuple(row) for row in await connection.exec_driver_sql(sql)]

    async def park_events(
        self,
        *failed: EventMessage,
        held: Sequence[EventMessage] = (),
        delivered: Sequence[EventMessage] = (),
        counts: bool = True,
    ) -> list[EventMessage]:
        failures = [EventFailure(message, "refused by its own fault", counts) for message in failed]
        async with self.engine.begin() as connection:
            assert await hold(connection, dict.fromkeys(EVENT_SLOTS, 0), self.policy)
            await settle_events(connection, delivered)
            return await park_events(connection, failures, held, self.policy)

    async def parked_aggregates(self, *identities: Identity) -> set[Identity]:
        async with self.engine.connect() as connection:
            return await parked_aggregates(connection, identities)

    async def due_events(self, limit: int = 100) -> list[int]:
        """The numbers of the events that are to be sent now."""
        return [message.seq for message in await self.due_messages(limit)]

    async def due_messages(self, limit: int = 100) -> list[EventMessage]:
        async with self.engine.connect() as connection:
            return await due_events(connection, EVENT_SLOTS, limit, self.policy)
