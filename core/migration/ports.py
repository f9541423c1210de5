"""What a step between phases needs of the log of Postgres, and of whoever publishes single documents to Cosmos DB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.content import Document
    from core.identity import Identity
    from core.migration.catch_up import Log


@dataclass(frozen=True, slots=True)
class Behind:
    """What has not left the log, nothing if all is empty.

    `slots` have not passed the snapshot; `parked` messages failed for a reason of their own and are tried again.
    """

    slots: tuple[int, ...] = ()
    parked: int = 0

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.slots or self.parked)


class LogBarrier(Protocol):
    """Says when everything that was committed in Postgres before some moment has been delivered: outbox.barrier."""

    async def snapshot(self, connection: AsyncConnection) -> str:
        """Return what is committed now, as `pg_current_snapshot` spells it. `connection` autocommits."""
        ...

    async def behind(self, connection: AsyncConnection, snapshot: str) -> Behind:
        """Say which slots have not delivered what the snapshot shows, and what is parked. Costs a millisecond."""
        ...

    async def unsent(self, connection: AsyncConnection) -> Behind:
        """Say which slots have anything to deliver that this transaction sees, and what is parked."""
        ...


class Forgets(Protocol):
    """Holds copies of documents for a while: the cache."""

    async def erase(self, identity: Identity, content: Document | None) -> int | None:
        """Remove every trace of a document, and let nothing that was read before come in any more.

        Args:
            identity: whose.
            content: what it held where that is known: what is found by its values goes as well.

        Returns:
            How many entries were removed; None: it did not answer, and its entries end by themselves.

        """
        ...


class Publisher(Protocol):
    """Writes the current state of single documents to Cosmos DB, through the guarded write: outbox.publisher."""

    async def publish(self, identities: Sequence[Identity]) -> dict[Identity, str | None]:
        """Publish the row, or the tombstone, of each identity as it is now.

        May be repeated. Nothing newer is ever overwritten.

        Returns:
            Why it was refused, None where it has arrived or something newer is there.

        Raises:
            StoreUnavailableError: a store did not answer; repeat.

        """
        ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What is reached through ports, wired by functions.migrating."""

    log: LogBarrier
    hold: Log
    publisher: Publisher
