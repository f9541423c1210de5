"""Publishes documents by their identities, and keeps what Cosmos DB refuses: no message in the log stands for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core.postgres import dead_letters
from core.postgres.dead_letters import REFUSED, DeadLetter, Direction
from core.postgres.failures import translated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.identity import Identity
    from core.migration.ports import Publisher

ABSENT: Final = "Postgres holds neither its row nor its tombstone"
"""What a Publisher answers for what it cannot publish."""


async def send(engine: AsyncEngine, publisher: Publisher, identities: Sequence[Identity]) -> dict[Identity, str]:
    """Publish the current state of documents; return those that were refused, with the reason.

    Each of them is a dead letter afterwards, as if the relay had been refused it, and can be replayed. What Postgres
    holds nothing of was deleted meanwhile by somebody who left no tombstone, and is left out.

    Raises:
        PrimaryMovedError: see Publisher.
        TransientError: a store failed for too long; some may have arrived, repeat.

    """
    answers = await publisher.publish(identities)
    refused = {one: reason for one, reason in sorted(answers.items()) if reason is not None and reason != ABSENT}
    if refused:
        with translated("recording what was refused"):
            async with engine.begin() as connection:
                for identity, reason in refused.items():
                    await dead_letters.record(connection, DeadLetter(Direction.TO_COSMOS, REFUSED, identity, reason))
    return refused
