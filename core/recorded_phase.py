"""The phase as a process believes it to be: read from Postgres, and again before the belief could do harm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from core.clock import boot_clock
from core.coalesced import Coalesced
from core.phases import PHASE_AGE_S, PhaseRow, PhaseState
from core.postgres.failures import translated
from core.postgres.phases import read_phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine


LATELY_S: Final = 60.0
"""How long a phase that was read is worth a metric, in seconds: a process that does nothing reads none."""


class PhaseSource(Protocol):
    """Knows the phase."""

    async def read(self) -> PhaseRow:
        """Return the phase, at most PHASE_AGE_S old; as it is now while it is known to drain.

        Raises:
            StoreUnavailableError: Postgres did not answer.

        """
        ...

    def forget(self) -> None:
        """Believe nothing that was read before."""
        ...

    def lately(self) -> PhaseRow | None:
        """Return the phase as it was read last, None if that is over LATELY_S ago; asks nobody."""
        ...


class RecordedPhase:
    """The row in Postgres; implements PhaseSource.

    Args:
        engine: the database.
        clock: seconds that count suspend.

    """

    def __init__(self, engine: AsyncEngine, clock: Callable[[], float] = boot_clock) -> None:
        self._engine = engine
        self._clock = clock
        self._row: PhaseRow | None = None
        self._read_at = 0.0
        self._forgot_at = 0.0
        self._ask = Coalesced(self._read)

    async def read(self) -> PhaseRow:
        """See PhaseSource."""
        return self._known() or await self._ask()

    def forget(self) -> None:
        """See PhaseSource."""
        self._forgot_at = self._clock()

    def lately(self) -> PhaseRow | None:
        """See PhaseSource."""
        return self._row if self._clock() - self._read_at <= LATELY_S else None

    def _known(self) -> PhaseRow | None:
        row = self._row
        if row is None or row.state is PhaseState.DRAINING:
            return None
        return row if self._read_at >= max(self._forgot_at, self._clock() - PHASE_AGE_S) else None

    async def _read(self) -> PhaseRow:
        read_at = self._clock()
        with translated("reading the phase"):
            async with self._engine.connect() as connection:
                row = await read_phase(connection)
        self._row, self._read_at = row, read_at
        return row


class UnrecordedPhase:
    """What the settings say, where there is no Postgres; implements PhaseSource.

    Args:
        row: the phase and its epoch.

    """

    def __init__(self, row: PhaseRow) -> None:
        self._row = row

    async def read(self) -> PhaseRow:
        """See PhaseSource."""
        return self._row

    def forget(self) -> None:
        """See PhaseSource."""

    def lately(self) -> PhaseRow | None:
        """See PhaseSource."""
        return self._row
