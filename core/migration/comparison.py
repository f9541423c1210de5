"""Compares all rows with all documents, once: digests first, then single states where those differ.

Nothing is waited for: beside live traffic what is found is suspected, no more.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from core.cosmos.documents import CosmosDocuments
from core.envelope import Origin, is_deleted
from core.migration.digests import FIRST_BITS
from core.migration.documents_side import read_all, shown_of, sorted_out
from core.migration.looking import Rules, look_beside
from core.migration.parity import Difference, DifferenceKind, EntityParity
from core.migration.rows_side import RowsSide, cosmos_epochs_of
from core.migration.spool import spooling
from core.postgres.failures import translated
from core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.migration.digests import Digest
    from core.migration.spool import Spool
    from core.phases import PhaseRow

PAGE_SIZE: Final = 1000
MANY: Final = 20_000
"""Buckets that hold more are cut into finer ones before their states are compared, if they are few."""
_FEW_BUCKETS: Final = 64
_FINER_BITS: Final = 20


async def _no_rest(_charge: float) -> None:
    pass


class Comparison:
    """One comparison of everything, or of one entity type.

    Args:
        engine: the database.
        store: the opened Cosmos DB database.
        mappings: all mappings of the process.
        phase: the recorded phase.
        deep: whether the contents of the same states are compared too.
        entity: the only entity type to be compared, None for all.
        page_size: about how many documents are read at once.
        rest: awaited after each page of documents with what it cost, in request units.
        progress: told how far each step is.

    """

    def __init__(  # noqa: PLR0913 - what a comparison is made of
        self,
        engine: AsyncEngine,
        store: CosmosStore,
        mappings: Mappings,
        phase: PhaseRow,
        *,
        deep: bool = False,
        entity: str | None = None,
        page_size: int = PAGE_SIZE,
        rest: Callable[[float], Awaitable[None]] = _no_rest,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._store = store
        self._mappings = mappings
        self._phase = phase
        self._deep = deep
        self._page_size = page_size
        self._rest = rest
        self._progress = progress
        wanted = list(mappings) if entity is None else [mappings.named(entity)]
        self.counts = {mapping.name: EntityParity() for mapping in wanted}
        """What was counted so far; differences are left to the caller."""

    async def differences(self) -> AsyncGenerator[Difference]:
        """Yield what differs, by the recorded primary's view, in bounded memory.

        Raises:
            TransientError: a store did not answer.

        """
        with translated("reading the history of phases"):
            async with self._engine.connect() as connection:
                rules = Rules(self._phase.primary, await cosmos_epochs_of(connection))
        documents = CosmosDocuments(self._store, self._mappings)
        containers = dict.fromkeys(self._mappings.named(name).container for name in self.counts)
        for container in containers:
            marks = await documents.catch_up(container)
            async with aclosing(self._of_container(container, marks, rules)) as found:
                async for one in found:
                    yield one

    async def _of_container(self, container: str, marks: frozenset[str], rules: Rules) -> AsyncGenerator[Difference]:
        types = [mapping for mapping in self._mappings.in_container(container) if mapping.name in self.counts]
        with spooling(types) as spools:
            read = 0
            async with aclosing(read_all(self._store, container, self._page_size, self._rest, marks)) as pages:
                async for page in pages:
                    found, unreadable = sorted_out(self._mappings, container, page)
                    for mapping, items in found.items():
                        if mapping in spools:
                            spools[mapping].keep([shown_of(*item) for item in items])
                            if self._deep:
                                for one in await self._contents(items, rules):
                                    yield one
                    for identity in unreadable:
                        if identity.entity in self.counts:
                            yield self._unreadable(identity, rules)
                    read += len(page)
                    self._progress(Progress(f"documents of {container}", read, 0))
            for mapping, spool in spools.items():
                rows = RowsSide(self._engine, mapping, rules.cosmos_epochs)
                async with aclosing(self._states(mapping, rows, spool, rules)) as states:
                    async for one in states:
                        yield one

    async def _contents(self, items: Sequence[tuple[Identity, Document]], rules: Rules) -> list[Difference]:
        """Return which of the documents have another content than their row although both are the same state."""
        live = {identity: document for identity, document in items if not is_deleted(document)}
        sights = await look_beside(self._engine, self._mappings, live)
        found = (
            sight.difference(rules, self._mappings.named(identity.entity), deep=True)
            for identity, sight in sights.items()
        )
        return [one for one in found if one is not None and one.kind is DifferenceKind.DIFFERENT]

    def _unreadable(self, identity: Identity, rules: Rules) -> Difference:
        counts = self.counts[identity.entity]
        counts.documents += 1
        counts.checked += 1
        kind = DifferenceKind.EXTRA if rules.primary is Origin.POSTGRES else DifferenceKind.MISSING
        return Difference(identity, kind, None, None)

    async def _states(
        self, mapping: EntityMapping[Any], rows: RowsSide, spool: Spool, rules: Rules
    ) -> AsyncGenerator[Difference]:
        of_rows, of_documents = await rows.digests(), spool.digests
        counts = self.counts[mapping.name]
        counts.rows += _total(of_rows)
        counts.documents += _total(of_documents)
        counts.checked += max(_total(of_rows), _total(of_documents))
        self._progress(Progress(f"rows of {mapping.name}", counts.rows, counts.rows))
        mask = (1 << FIRST_BITS) - 1
        buckets = _differing(of_rows, of_documents)
        if len(buckets) <= _FEW_BUCKETS and _total(of_rows, buckets) + _total(of_documents, buckets) > MANY:
            finer = (1 << _FINER_BITS) - 1
            buckets = _differing(await rows.finer(mask, buckets, finer), spool.finer(mask, buckets, finer))
            mask = finer
        if not buckets:
            return
        async with aclosing(rows.single(mask, buckets)) as some:
            async for held in some:
                spool.hold(held)
        async with aclosing(spool.pairs(mask, buckets)) as pairs:
            async for row, shown in pairs:
                difference = rules.difference(row, shown)
                if difference is not None:
                    yield difference


def compare(  # noqa: PLR0913 - what a comparison is made of
    engine: AsyncEngine,
    store: CosmosStore,
    mappings: Mappings,
    phase: PhaseRow,
    *,
    deep: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> AsyncGenerator[Difference]:
    """Yield everything that differs at first sight, however much it is, in bounded memory; nothing is looked at twice.

    For who handles every difference and repeats until there is none (the way back from `postgres_only`).
    """
    return Comparison(engine, store, mappings, phase, deep=deep, progress=progress).differences()


def _differing(one: dict[int, Digest], other: dict[int, Digest]) -> set[int]:
    return {bucket for bucket in one.keys() | other.keys() if one.get(bucket) != other.get(bucket)}


def _total(digests: dict[int, Digest], buckets: set[int] | None = None) -> int:
    return sum(digest.states for bucket, digest in digests.items() if buckets is None or bucket in buckets)
