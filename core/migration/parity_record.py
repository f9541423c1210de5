"""Keeps what the last comparison of each entity type has found, for whoever asks how the stores stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.postgres.failures import translated

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.migration.parity import Parity


@dataclass(frozen=True, slots=True)
class RecordedParity:
    """The last comparison of one entity type, in counts (core.migration.parity.EntityParity); `age_s` seconds ago."""

    entity: str
    as_of: datetime
    deep: bool
    rows: int
    documents: int
    differences: int
    accounted: int
    busy: int
    age_s: float

    @property
    def unaccounted(self) -> int:
        """How many differences no dead letter accounts for; what was written at every look is not known to be one."""
        return self.differences - self.accounted


# Of two comparisons at once, the one that began later stays.
_RECORD = """
    INSERT INTO crossfeed.parity AS p (entity, as_of, deep, rows, documents, differences, accounted, busy)
    VALUES (%(entity)s, %(as_of)s, %(deep)s, %(rows)s, %(documents)s, %(differences)s, %(accounted)s, %(busy)s)
    ON CONFLICT (entity) DO UPDATE SET as_of = excluded.as_of, deep = excluded.deep, rows = excluded.rows,
        documents = excluded.documents, differences = excluded.differences, accounted = excluded.accounted,
        busy = excluded.busy
    WHERE p.as_of <= excluded.as_of
"""

# Of an entity type that is mapped no longer nothing is said.
_READ = """
    SELECT entity, as_of, deep, rows, documents, differences, accounted, busy,
        greatest(extract(epoch FROM clock_timestamp() - as_of), 0)::float8
    FROM crossfeed.parity p WHERE EXISTS (SELECT FROM crossfeed.captured c WHERE c.entity = p.entity) ORDER BY entity
"""


async def record_parity(engine: AsyncEngine, parity: Parity) -> None:
    """Record what a comparison has found, in place of the one before.

    Raises:
        StoreUnavailableError: Postgres did not answer.

    """
    with translated("recording the comparison"):
        async with engine.begin() as connection:
            for name, one in sorted(parity.entities.items()):
                counts = {"differences": one.total, "accounted": one.accounted, "busy": one.busy}
                rows = {"rows": one.rows, "documents": one.documents, "as_of": parity.as_of, "deep": parity.deep}
                await connection.exec_driver_sql(_RECORD, {"entity": name, **rows, **counts})


async def read_parity(connection: AsyncConnection) -> tuple[RecordedParity, ...]:
    """Return the last comparison of every captured entity type that was ever compared.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    return tuple(RecordedParity(*row) for row in map(tuple, await connection.exec_driver_sql(_READ)))
