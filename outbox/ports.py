"""What a stream of messages needs of others: who handles each kind of them, who watches the history, what is shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.cosmos.markers import Mark
    from core.phases import PhaseRow
    from core.settings import Settings
    from outbox.canaries import Canary
    from outbox.cursor import Carries, SlotGroup
    from outbox.line import Line
    from outbox.log_reader import Batch
    from outbox.stats import RelayStats


class Report(Protocol):
    """What became of a page."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing of it has to be recorded before the next page is looked at."""
        ...


class Kind(Protocol):
    """What is done with the messages of one kind of slots: outbox.states.States, outbox.events.Events."""

    @property
    def carries(self) -> Carries:
        """Which slots."""
        ...

    def flows(self, phase: PhaseRow) -> bool:
        """Whether cursors move in this phase."""
        ...

    def may_overlap(self, loaded: Any) -> bool:  # noqa: ANN401 - what `load` returned
        """Whether later pages may be loaded before this one has been sent: sending it changes nothing in Postgres."""
        ...

    async def load(self, connection: AsyncConnection, batch: Batch) -> Any:  # noqa: ANN401 - each kind's own
        """Load what sending a page needs; may be called while an earlier page is sent. `connection` autocommits."""
        ...

    async def send(  # noqa: PLR0913 - the facts of a page
        self,
        batch: Batch,
        loaded: Any,  # noqa: ANN401 - what `load` returned
        read_at: float,
        check: Callable[[], None],
        *,
        backlog: bool,
        parked: bool,
    ) -> Report:
        """Send a page; `parked` is False only where nothing is parked of its slots. Repeating it is harmless.

        Raises:
            TransientError: infrastructure failed, or `check` said no.
            ConflictError: the phase was changed; read again.

        """
        ...

    async def record(self, connection: AsyncConnection, reports: Sequence[Any]) -> None:
        """Park what failed and settle what arrived, in a transaction that holds the slots; a later page counts."""
        ...

    def forget(self, reports: Iterable[Any]) -> None:
        """Drop what is remembered of pages for the case that they are repeated: they will not be."""
        ...

    def start_over(self) -> None:
        """Drop everything that is remembered: slots were lost, or set back on purpose."""
        ...

    async def retry(self, group: SlotGroup, check: Callable[[], None]) -> bool:
        """Try what is parked and due again; return whether there may be more.

        Raises:
            TransientError: see `send`.
            ConflictError: see `send`.

        """
        ...


class Lineage(Protocol):
    """Leaves word in Cosmos DB of how far a cursor is, and finds out by it whether Postgres has forgotten something."""

    async def check(self, connection: AsyncConnection, slots: Sequence[int]) -> str:
        """Compare what the markers of slots say with the log, before anything is sent for them.

        Returns:
            Which run of a server answered (outbox.cursor.SERVER).

        Raises:
            HistoryLostError: Postgres does not hold what was sent from it.
            TransientError: a store did not answer.

        """
        ...

    def note(self, slots: Sequence[int], tokens: Sequence[int], mark: Mark) -> None:
        """Remember the newest message of a page before anything of it is sent."""
        ...

    async def mark(self) -> None:
        """Record what was noted, before a cursor that is past it is stored.

        Raises:
            LineageMovedError: `check` has to be asked again.
            TransientError: Cosmos DB did not take it.

        """
        ...


@dataclass(frozen=True, slots=True)
class Wiring:
    """What streams of one relay share."""

    settings: Settings
    engine: AsyncEngine
    line: Line
    """Where small reads go."""
    stats: RelayStats
    clock: Callable[[], float]
    lineage: Lineage | None
    may_go_on: Callable[[PhaseRow, Carries, bool], bool]
    """Says whether cursors of such slots move in this phase; told whether there are messages."""
    on_canaries: Callable[[Carries, int, Iterable[Canary]], None] = lambda *_: None
    """Told, with the epoch, of the canaries that a stream is past."""
    is_watched: bool = False
    """Whether a cache wants to know what changed, also in a phase in which nothing is sent."""
