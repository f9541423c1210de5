"""Sends every row and every tombstone of an entity type to Cosmos DB, in the order of their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from core.envelope import Origin
from core.errors import ConflictError
from core.migration.backfill_state import Counts, Part
from core.migration.sending import send
from core.postgres.failures import translated
from core.postgres.keyset import about, rows_after, tombstones_after

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.migration.backfill_state import Run, Turn
    from core.migration.ports import Publisher
    from core.pace import Pace
    from core.phases import PhaseRow

_ROWS: Final = "rows"
_TOMBSTONES: Final = "tombstones"
_WALKS: Final = {_ROWS: rows_after, _TOMBSTONES: tombstones_after}


class ToCosmos:
    """Fills Cosmos DB, whose application writes to Postgres. Sources are entity types.

    What is written behind a place meanwhile is in the log: it goes the way of the relay while that sends, and in the
    phase `postgres_only` it is found by the step that ends it.

    Args:
        engine: the database.
        mappings: all mappings of the process.
        turn: the right to do it.
        publisher: sends single documents, within its own budget of request units.
        pace: told how long Postgres takes.

    """

    def __init__(self, engine: AsyncEngine, mappings: Mappings, turn: Turn, publisher: Publisher, pace: Pace) -> None:
        self._engine = engine
        self._mappings = mappings
        self._turn = turn
        self._publisher = publisher
        self._pace = pace

    def sources(self, entities: Sequence[str] | None) -> list[str]:
        """Return what has to be walked for these entity types, None for all."""
        return [mapping.name for mapping in self._mappings] if entities is None else list(entities)

    def check(self, phase: PhaseRow) -> None:
        """Refuse phases in which Postgres is not the primary.

        Raises:
            ConflictError: it is not.

        """
        if phase.primary is not Origin.POSTGRES:
            msg = (
                f"in phase {phase.phase.label} Cosmos DB is the primary; what it lacks is not to be taken from Postgres"
            )
            raise ConflictError(msg)

    async def parts(self, source: str) -> list[Part]:
        """Return what a source is cut into."""
        return [Part(source, _ROWS), Part(source, _TOMBSTONES)]

    async def total(self, sources: Sequence[str]) -> int:
        """Return about how many rows there are."""
        with translated("looking how many rows there are"):
            async with self._engine.connect() as connection:
                return sum([await about(connection, self._mappings.named(source)) for source in sources])

    async def piece(self, part: Part, _phase: PhaseRow, run: Run) -> float:
        """Send the next page of a part, and write down that it was sent; return how long to rest, in seconds.

        Killed in between it is sent again, which changes nothing.
        """
        mapping: EntityMapping[Any] = self._mappings.named(part.source)
        with self._pace.measuring(), translated(f"reading {part.name} of {part.source}"):
            async with self._engine.connect() as connection:
                page = await _WALKS[part.name](connection, mapping, part.place, self._pace.page_size)
        refused = await send(self._engine, self._publisher, page.identities) if page.identities else {}
        run.counts.add(Counts(len(page.identities), len(page.identities) - len(refused), len(refused)))
        with translated("moving the place of the backfill"):
            async with self._engine.begin() as connection:
                place = page.place if page.identities else part.place
                await self._turn.move(connection, part, place, run.counts, done=not page.identities)
        return self._pace.pause_s
