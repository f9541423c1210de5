"""Brings Cosmos DB up to what Postgres holds, before it follows again: the way back from `postgres_only`.

While nothing is sent, Cosmos DB falls behind without bound, so what differs is found by comparing both stores
(core.migration.catch_up_round). Writers go on meanwhile. A round that finds nothing but what was changed since the
round before it began proves that one complete, as far as it could see; what it could not see is in the log, and held
there (`Log`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from core.errors import ConflictError
from core.migration.catch_up_round import Round, Sent
from core.migration.comparison import compare
from core.phases import Phase
from core.postgres.failures import translated
from core.postgres.phases import read_phase

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.mappings import Mappings
    from core.migration.ports import Publisher
    from core.phases import PhaseRow
    from core.progress import Progress

ROUNDS: Final = 5
"""After so many rounds what is left does not come from writers who go on."""

NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Hold:
    """What the log held at a moment in an epoch, and keeps."""

    id: UUID
    epoch: int


class Log(Protocol):
    """The log of Postgres, in a phase in which its states are not sent: outbox.log_hold."""

    async def take(self) -> Hold:
        """Keep whatever is committed from now on, so that it can be sent later; durable when this returns.

        It is kept for an hour from the last `take` or `renew`.

        Raises:
            StoreUnavailableError: Postgres did not answer, or was busy; nothing is held, repeat.

        """
        ...

    async def renew(self, hold: Hold) -> None:
        """Keep it for another hour.

        Raises:
            ConflictError: it has run out; compare again under a new one.
            StoreUnavailableError: Postgres did not answer; repeat.

        """
        ...

    async def release(self, hold: Hold) -> None:
        """Let it go; harmless where it is gone.

        Raises:
            StoreUnavailableError: Postgres did not answer; it runs out by itself.

        """
        ...

    async def rewind(self, connection: AsyncConnection, hold: Hold, opened: PhaseRow) -> None:
        """Have everything that the hold keeps sent, in the transaction that opened the phase, and let the hold go.

        No cursor moves forwards; whoever owned one must take it anew.

        Raises:
            ConflictError: the hold has run out, or its epoch is not the one before; roll the step back.

        """
        ...


async def send_once(
    engine: AsyncEngine,
    store: CosmosStore,
    mappings: Mappings,
    publisher: Publisher,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Sent:
    """Send whatever Cosmos DB lacks, in one round: what `send_changes` is spared for while the log is held.

    Args, errors: as those of `send_changes`.
    """
    work = Round(engine, mappings, publisher, await _phase(engine), Sent())
    await work.run(compare(engine, store, mappings, work.phase, deep=True, progress=progress), None)
    return work.sent


async def send_changes(  # noqa: PLR0913 - what a comparison is made of
    engine: AsyncEngine,
    store: CosmosStore,
    mappings: Mappings,
    publisher: Publisher,
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    since: str | None = None,
) -> Sent:
    """Send whatever Cosmos DB lacks, until nothing is found but what was changed meanwhile.

    May be killed and repeated at any time: what arrived is not sent again. Costs a reading of both stores a round.

    Args:
        engine: from core.postgres.engine.open_engine.
        store: the opened Cosmos DB database.
        mappings: all mappings of the process.
        publisher: sends single documents.
        progress: told how far each round is.
        since: `begun` of a round that was made before, in this epoch: what that one sent is not looked for again.

    Raises:
        ConflictError: this is not the phase for it; or something differs still after ROUNDS rounds, by name.
        PrimaryMovedError: the epoch was raised meanwhile; begin again.
        TransientError: a store failed for too long; repeat.

    """
    work = Round(engine, mappings, publisher, await _phase(engine), Sent())
    unexplained: list[Identity] = []
    while work.sent.rounds < ROUNDS:
        differences = compare(engine, store, mappings, work.phase, deep=since is None, progress=progress)
        unexplained = await work.run(differences, since)
        if not unexplained:
            return work.sent
        since = work.sent.begun
    named = "; ".join(str(identity) for identity in unexplained[:NAMED])
    msg = f"after {ROUNDS} rounds Cosmos DB still differs, though nobody changed it meanwhile: {named}"
    raise ConflictError(msg)


async def _phase(engine: AsyncEngine) -> PhaseRow:
    with translated("reading the phase"):
        async with engine.connect() as connection:
            phase = await read_phase(connection)
    if phase.phase is not Phase.POSTGRES_ONLY:
        msg = f"in phase {phase.phase.label} Cosmos DB does not stand apart from Postgres: nothing to catch up with"
        raise ConflictError(msg)
    return phase
