"""Measures the guarded write to Postgres against COPY of the same rows, and against the same write row by row.

The documents are those of all four containers of the example, stamped as our repositories stamp them, so that every
hash is verified; a third of them have the spellings of the old application. They are new to Postgres, a batch of one
container each, with all guards on: the tables' locks, the phase, the identities' locks, what is held, the savepoint.

COPY writes into the very same tables with all their indexes, also one transaction a batch, of text that was made ready
before; it decides and checks nothing. Row by row is the same guarded write of one document each. What a bare statement
for each row would take, without any guard and with its JSON made ready before, is shown as well.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Final

import psycopg

from changefeed.mirror import Mirror
from core.content import content_of, dump
from core.domain.mappings import MAPPINGS
from core.mappings import Mappings
from core.postgres.mirrored_rows import put_statement
from core.postgres.names import STAMP_COLUMNS, TAKEN_COLUMNS, table_name
from core.postgres.phases import read_phase
from core.quick_row import row_of
from core.settings import Settings
from tests import stores
from tests.bench.mirrored import as_shown, check, clear, contents, copied_columns, fingerprint, opened
from tests.bench.wire import WrongAnswerError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.identity import Identity
    from core.phases import PhaseRow
    from tests.bench.mirrored import Documents

DOCUMENTS: Final = 4_000
ONE_BY_ONE: Final = 400
"""How many documents are written row by row in one round."""
BATCHES: Final = (100, 1_000)


async def measure(seconds: float, rounds: int) -> dict[str, float | int | str]:
    """Return documents a second of each way, at 100 documents a batch and at 1,000.

    Args:
        seconds: about how long all rounds of one figure take.
        rounds: how many there are at least.

    Raises:
        WrongAnswerError: a way did not write the rows that it should.

    """
    with stores.postgres() as server:
        dsn = await server.create_database("mirror")
        await stores.install(dsn)
        settings = Settings.load(postgres_dsn=dsn)
        async with opened(settings) as (engine, session), await psycopg.AsyncConnection.connect(dsn) as copying:
            await copying.execute("SET crossfeed.mirroring = 'on'")
            await copying.commit()
            bench = _Bench(engine, session, copying, as_shown(contents(DOCUMENTS)))
            await bench.prepare()
            return await bench.measured(seconds, rounds)


class _Nobody:
    """Who is never asked: no change of this bench leaves a doubt."""

    async def read(self, identity: Identity) -> Document | None:
        msg = f"{identity} was read by its key"
        raise WrongAnswerError(msg)

    async def reach(self, container: str, epoch: int) -> None:
        msg = f"the feed of {container} was waited for"
        raise WrongAnswerError(msg)


class _Bench:
    def __init__(
        self,
        engine: AsyncEngine,
        session: psycopg.AsyncConnection[Any],
        copying: psycopg.AsyncConnection[Any],
        documents: Documents,
    ) -> None:
        self._engine = engine
        self._session = session
        self._copying = copying
        self._documents = documents
        self._count = sum(map(len, documents.values()))
        share = self._count // ONE_BY_ONE or 1
        self._some = {container: items[::share] for container, items in documents.items()}
        self._mirror = Mirror(engine, _Nobody(), Mappings(MAPPINGS))
        self._lines: dict[str, list[bytes]] = {}
        self._expected: list[tuple[Any, ...]] = []

    async def prepare(self) -> None:
        """Write everything once and compare each row with its document; keep the rows as COPY takes them."""
        await clear(self._session)
        await self._mirrored(self._documents, BATCHES[0])
        await check(self._engine, self._documents)
        self._expected = await fingerprint(self._session)
        for mapping in MAPPINGS:
            rows = f"SELECT {copied_columns(mapping)} FROM {table_name(mapping.table)} ORDER BY crossfeed_lsn"
            async with self._session.cursor().copy(f"COPY ({rows}) TO STDOUT") as copy:
                self._lines[mapping.container] = [bytes(line) async for line in copy]

    async def measured(self, seconds: float, rounds: int) -> dict[str, float | int | str]:
        figures: dict[str, float | int | str] = {}
        bare = await self._bare(rounds)
        one_by_one: list[float] = []
        for batch in BATCHES:
            mirror: list[float] = []
            copy: list[float] = []
            cpu: list[float] = []
            began = perf_counter()
            while len(mirror) < rounds or perf_counter() - began < seconds / len(BATCHES):
                took, used = await self._round(batch)
                mirror.append(self._count / took)
                cpu.append(used / self._count * 1e6)
                copy.append(self._count / await self._copied(batch))
                if len(one_by_one) < rounds:
                    one_by_one.append(await self._one_by_one())
            end = "" if batch == BATCHES[0] else f"_at_{batch}"
            figures |= {
                f"copy_per_s{end}": round(median(copy)),
                f"mirror_per_s{end}": round(median(mirror)),
                f"ratio_to_copy{end}": round(median([one / other for one, other in zip(mirror, copy, strict=True)]), 3),
                f"per_row_per_s{end}": round(median(one_by_one)),
                f"speedup_over_per_row{end}": round(median(mirror) / median(one_by_one), 1),
                f"mirror_client_cpu_us{end}": round(median(cpu), 1),
            }
        return figures | {"unguarded_per_row_per_s": round(bare), "documents": self._count}

    async def _round(self, batch: int) -> tuple[float, float]:
        """Return the seconds that the mirror took, and those that this process computed."""
        await clear(self._session)
        used, began = process_time(), perf_counter()
        await self._mirrored(self._documents, batch)
        took = perf_counter() - began, process_time() - used
        await self._compare("the mirror")
        return took

    async def _copied(self, batch: int) -> float:
        await clear(self._session)
        began = perf_counter()
        for mapping in MAPPINGS:
            lines = self._lines[mapping.container]
            statement = f"COPY {table_name(mapping.table)} ({copied_columns(mapping)}) FROM STDIN"
            for first in range(0, len(lines), batch):
                async with self._copying.cursor() as cursor, cursor.copy(statement) as copy:
                    await copy.write(b"".join(lines[first : first + batch]))
                await self._copying.commit()
        took = perf_counter() - began
        await self._compare("COPY")
        return took

    async def _one_by_one(self) -> float:
        """Return documents a second of the guarded write with one document each."""
        some = self._some
        await clear(self._session)
        began = perf_counter()
        await self._mirrored(some, 1)
        rate = sum(map(len, some.values())) / (perf_counter() - began)
        await check(self._engine, some)
        return rate

    async def _bare(self, rounds: int) -> float:
        """Return rows a second of the same statement for each row, a hundred a transaction, and nothing else."""
        rates: list[float] = []
        some = self._some
        rows = [
            (put_statement(mapping), {"rows": dump([_whole_row(mapping, document)])})
            for mapping in MAPPINGS
            for document in some[mapping.container]
        ]
        for _ in range(rounds):
            await clear(self._session)
            began = perf_counter()
            for place, (statement, row) in enumerate(rows, 1):
                await self._copying.execute(statement, row)
                if place % BATCHES[0] == 0:
                    await self._copying.commit()
            await self._copying.commit()
            rates.append(len(rows) / (perf_counter() - began))
            await check(self._engine, some)
        return median(rates)

    async def _mirrored(self, documents: Documents, batch: int) -> None:
        phase = await self._phase()
        for container, items in documents.items():
            for first in range(0, len(items), batch):
                some = items[first : first + batch]
                outcome = await self._mirror.apply(container, some, phase)
                if outcome.applied != len(some):
                    msg = f"the mirror applied {outcome} of {len(some)} documents"
                    raise WrongAnswerError(msg)

    async def _phase(self) -> PhaseRow:
        async with self._engine.connect() as connection:
            return await read_phase(connection)

    async def _compare(self, way: str) -> None:
        if await fingerprint(self._session) != self._expected:
            msg = f"{way} wrote other rows than the mirror did at first"
            raise WrongAnswerError(msg)


def _whole_row(mapping: Any, document: Document) -> dict[str, Any]:
    stamps = dict(zip(STAMP_COLUMNS, (document["crossfeed"]["epoch"], document["crossfeed"]["version"]), strict=True))
    taken = dict(zip(TAKEN_COLUMNS, (document["_etag"], document["_ts"], document["_lsn"]), strict=True))
    return {**row_of(mapping, content_of(document)), **stamps, **taken}
