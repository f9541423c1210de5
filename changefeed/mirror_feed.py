"""Lets the mirror apply what a processor reads: one feed per mapped container, named `mirror/` and the container."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from changefeed.mirror import Mirror
from changefeed.ports import Feed
from core.canary_marks import seen_in
from core.cosmos.documents import CosmosDocuments
from core.postgres.canaries import record_seen
from core.postgres.failures import translated
from core.postgres.mirrored_batch import Outcome
from core.postgres.phases import read_phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from changefeed.ports import Acknowledge
    from changefeed.stats import ProcessorStats
    from core.cache.notices import Notices
    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.postgres.mirror_parking import MirrorPatience


class MirrorApplier:
    """The mirror as an Applier.

    Args:
        engine: for the phase.
        mirror: applies the pages.
        stats: where it counts what the mirror did.

    """

    def __init__(self, engine: AsyncEngine, mirror: Mirror, stats: ProcessorStats) -> None:
        self._engine = engine
        self._mirror = mirror
        self._stats = stats

    async def begin(self) -> PhaseRow:
        """See Applier."""
        with translated("reading the phase"):
            async with self._engine.connect() as connection:
                return await read_phase(connection)

    async def apply(
        self, container: str, documents: Sequence[Document], begun: PhaseRow, acknowledge: Acknowledge
    ) -> None:
        """See Applier."""
        canaries = seen_in(documents)

        async def done(connection: AsyncConnection) -> None:
            await record_seen(connection, container, canaries)
            await acknowledge(connection)

        self._stats.mirrored(await self._mirror.apply(container, documents, begun, done))

    async def idle(self, begun: PhaseRow) -> bool:
        """See Applier."""
        return await self._mirror.retry_parked(begun)

    def counts(self) -> Mapping[str, int]:
        """See Applier."""
        return {item.name: getattr(self._stats, item.name) for item in fields(Outcome)}


def mirror_feeds(  # noqa: PLR0913 - what they are wired from
    engine: AsyncEngine,
    store: CosmosStore,
    mappings: Mappings,
    stats: ProcessorStats,
    *,
    page_size: int,
    patience: MirrorPatience,
    notices: Notices | None = None,
) -> list[Feed]:
    """Return the feed of every mapped container.

    Args:
        engine: from core.postgres.engine.ending_silence.
        store: the opened Cosmos DB database.
        mappings: whose containers.
        stats: where the mirror counts.
        page_size: about how many documents one transaction mirrors.
        patience: how often and how soon what is parked is tried again.
        notices: tells a cache of what was mirrored.

    """
    reader = CosmosDocuments(store, mappings)
    mirror = Mirror(engine, reader, mappings, patience, retried=stats.mirrored, notices=notices)
    applier = MirrorApplier(engine, mirror, stats)
    return [
        Feed(f"mirror/{name}", store.container(mappings.in_container(name)[0]), name, applier, page_size)
        for name in mappings.containers
    ]
