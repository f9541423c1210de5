"""Sends the current state of chosen documents, with no message in the log: for backfill, repair, erasure and steps.

A state goes the way of the relay's: what Postgres holds now, row or tombstone, by the guarded write, in the epoch in
which it was loaded. It may therefore run beside relays, beside another publisher and at any time while Postgres is the
primary, also in the phase `postgres_only`, when the relay sends nothing; whatever it writes is the newest state or is
superseded by a newer one. Unlike a relay it holds no lease, so a state that was loaded longer ago than a relay's lease
lasts is loaded again rather than sent: a process that was stopped must not wake up and send what is long out of date.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from core.clock import boot_clock
from core.cosmos import persistence
from core.cosmos.failures import CosmosUnavailableError
from core.cosmos.guarded import GuardedWriter
from core.cosmos.publish import Postponed, Refused, Superseded
from core.envelope import Origin
from core.errors import ConcurrencyError, PrimaryMovedError, StoreUnavailableError, TransientError
from core.migration.sending import ABSENT
from core.postgres.failures import translated
from core.postgres.phases import read_phase
from outbox.ahead import judge_superseded
from outbox.current_state import load
from outbox.lifting import lift_all
from outbox.parking import ParkingPolicy
from outbox.quarantine import LetterQuarantine
from outbox.stats import RelayStats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.cosmos.publish import Outcome, Publish
    from core.identity import Identity
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.settings import Settings
    from outbox.current_state import Loaded

PART: Final = 200
"""How many documents are loaded at once, and so how many are in memory."""

PATIENCE_S: Final = 30.0
"""How long infrastructure may fail for one part, in seconds, before the caller hears of it."""

REMEMBERED: Final = 10_000
"""How many ETags are remembered; hardly a document is sent twice."""


class Publisher:
    """Sends current states. Safe to share between tasks; keeps nothing open.

    Args:
        engine: the database whose states are sent.
        store: the opened Cosmos DB database.
        mappings: of everything that may be sent.
        settings: concurrency, the tombstones' life, and how long a relay's lease lasts.
        ru_per_second: how many request units a second may be used, None for as many as Cosmos DB grants.
        patience_s: how long infrastructure may fail for one part, in seconds.
        clock: seconds that count suspend.

    """

    def __init__(  # noqa: PLR0913 - what it is wired from
        self,
        engine: AsyncEngine,
        store: CosmosStore,
        mappings: Mappings,
        settings: Settings,
        *,
        ru_per_second: float | None = None,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._engine = engine
        self._mappings = mappings
        self._settings = settings
        self._patience_s = patience_s
        self._clock = clock
        self._policy = ParkingPolicy.of(settings)
        self._sink = GuardedWriter(
            store,
            mappings,
            LetterQuarantine(engine, mappings, RelayStats(), clock),
            settings.relay_concurrency,
            remember=REMEMBERED,
            ru_per_second=ru_per_second,
            patience_s=min(patience_s, persistence.PATIENCE_S),
        )

    async def publish(self, identities: Sequence[Identity]) -> dict[Identity, str | None]:
        """Send what Postgres holds of documents now: rows as documents, tombstones as tombstones, never a DELETE.

        May be repeated at any time, also after a crash in the middle: what arrived is left alone.

        Args:
            identities: of which documents; twice the same counts once.

        Returns:
            For each document None if Cosmos DB holds this state or a newer one now; else the reason why it never will:
            Cosmos DB or the mapping refuses it, or Postgres holds nothing of it. Reasons hold no payload.

        Raises:
            PrimaryMovedError: Postgres is not the primary, or a new epoch was opened meanwhile; some may have arrived.
                If Postgres is the primary still, the same call will do.
            HistoryLostError: Cosmos DB holds what Postgres has lost.
            MappingError: an entity type has no mapping.
            TransientError: one of the stores failed for too long; some may have arrived, repeat.

        """
        wanted = list(dict.fromkeys(identities))
        answers: dict[Identity, str | None] = {}
        for start in range(0, len(wanted), PART):
            await self._insist(wanted[start : start + PART], answers)
        return answers

    async def _insist(self, part: Sequence[Identity], answers: dict[Identity, str | None]) -> None:
        """Send a part, repeating what infrastructure failed for as long as something of it arrives now and then."""
        attempts = AsyncRetrying(
            retry=retry_if_exception_type((TransientError, ConcurrencyError)),
            stop=stop_after_delay(self._patience_s),
            wait=wait_random_exponential(multiplier=0.05, max=2),
            reraise=True,
        )
        while True:
            before = len(answers)
            try:
                return await attempts(partial(self._send, part, answers))
            except (TransientError, ConcurrencyError):
                if len(answers) == before:
                    raise

    async def _send(self, part: Sequence[Identity], answers: dict[Identity, str | None]) -> None:
        """Send what has no answer yet, and answer for it."""
        left = [identity for identity in part if identity not in answers]
        loaded_at = self._clock()
        phase, loaded = await self._load(left)
        held_back = {item.held.identity for buried in loaded.buried.values() for item in buried}
        await lift_all(self._engine, phase, loaded, self._policy)
        answers.update({identity: refusal.reason for identity, refusal in loaded.refused.items()})
        found = {item.identity for item in loaded.publish}
        held_back -= found
        answers.update(dict.fromkeys(set(left) - found - held_back - loaded.refused.keys(), ABSENT))

        def decided(item: Publish, outcome: Outcome) -> None:
            if not isinstance(outcome, Postponed | Superseded):
                answers[item.identity] = outcome.reason if isinstance(outcome, Refused) else None

        check = partial(self._check_age, loaded_at)
        outcomes = await self._sink.write(loaded.publish, check=check, on_outcome=decided, backlog=True)
        newer = {
            item.identity: outcome.found
            for item, outcome in zip(loaded.publish, outcomes, strict=True)
            if isinstance(outcome, Superseded)
        }
        await judge_superseded(self._engine, self._mappings, newer, phase)
        answers.update(dict.fromkeys(newer))
        for outcome in outcomes:
            if isinstance(outcome, Postponed):
                raise CosmosUnavailableError(outcome.reason, outcome.retry_after_s)
        if held_back:
            one = min(held_back)  # its partition key may be personal, and this is logged
            msg = f"a writer has locked the row of {one.entity} {one.id!r}, which stands behind its own tombstone"
            raise StoreUnavailableError(msg)

    async def _load(self, identities: Sequence[Identity]) -> tuple[PhaseRow, Loaded]:
        with translated("loading what is to be published"):
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                phase = await read_phase(connection)
                if phase.primary is not Origin.POSTGRES:
                    msg = f"Postgres is not the primary in phase {phase.phase.label}; nothing is published from it"
                    raise PrimaryMovedError(msg)
                ttl_s = self._settings.tombstone_ttl_s
                return phase, await load(connection, self._mappings, identities, phase, ttl_s)

    def _check_age(self, loaded_at: float) -> None:
        if self._clock() - loaded_at > self._settings.relay_lease_s:
            msg = f"what was loaded is older than {self._settings.relay_lease_s:g} s"
            raise StoreUnavailableError(msg)
