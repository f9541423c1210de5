"""Wires the parts of a process from its settings; every part can be replaced."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from changefeed.consumers import Consumers
from changefeed.deletes import delete_feeds
from changefeed.ports import Feed
from changefeed.processor import Processor
from core.cache.client import open_cache
from core.cache.notices import Notices
from core.cosmos.client import open_cosmos
from core.postgres.engine import open_engine
from core.postgres.failures import translated
from core.postgres.fit import check_fit
from core.postgres.mirror_parking import MirrorPatience
from core.postgres.rights import check_rights
from core.postgres.schema import check_schema
from outbox.relay import Relay, open_relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cache.client import Cache
    from core.cache.stats import CacheStats
    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.postgres.rights import Process
    from core.settings import Settings


@dataclass(frozen=True, slots=True)
class Application:
    """The parts of one process, connected and checked. Relay and processor do nothing until they are run.

    `cache` is None where CROSSFEED_CACHE_URL is not set; `notices` tell it what was moved, or nobody.
    """

    settings: Settings
    mappings: Mappings
    engine: AsyncEngine
    store: CosmosStore
    relay: Relay
    processor: Processor
    cache: Cache | None = None
    notices: Notices = field(default_factory=Notices)

    @property
    def cache_stats(self) -> CacheStats | None:
        """What is counted of the cache, None where there is none."""
        return None if self.cache is None else self.cache.stats


@asynccontextmanager
async def bootstrap(  # noqa: PLR0913 - one keyword per part that can be replaced
    settings: Settings,
    *,
    process: Process | None = None,
    mappings: Mappings | None = None,
    engine: AsyncEngine | None = None,
    store: CosmosStore | None = None,
    relay: Relay | None = None,
    processor: Processor | None = None,
) -> AsyncIterator[Application]:
    """Connect to both stores, check that they are what the mappings say, and wire what moves documents between them.

    Args:
        settings: of the process.
        process: whose rights in Postgres are looked at; None: an operator's, who owns the schema or will be told.
        mappings: instead of those that CROSSFEED_MAPPINGS names.
        engine: instead of one on CROSSFEED_POSTGRES_DSN; stays open afterwards.
        store: instead of one on CROSSFEED_COSMOS_ENDPOINT; stays open afterwards.
        relay: instead of one made from the settings.
        processor: instead of one made from the settings.

    Raises:
        ConfigurationError: a store cannot be reached, or what is there does not fit; the message names the cure.
        StoreUnavailableError: a store failed while it was looked at.

    """
    known = mappings or settings.load_mappings()
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(open_engine(settings)) if engine is None else engine
        with translated("checking the schema"):
            async with postgres.connect() as connection:
                await check_schema(connection)
                if process is not None:
                    await check_rights(connection, process, known)
                await check_fit(connection, known)
        cosmos = await stack.enter_async_context(open_cosmos(settings)) if store is None else store
        await cosmos.check(known, cosmos.own)
        cache = await stack.enter_async_context(open_cache(settings, known))
        notices = Notices(cache)
        yield Application(
            settings,
            known,
            postgres,
            cosmos,
            relay or open_relay(settings, known, postgres, cosmos, notices),
            processor
            or Processor(
                postgres,
                cosmos,
                known,
                page_size=settings.mirror_page_size,
                poll_ms=settings.mirror_poll_ms,
                lease_s=settings.mirror_lease_s,
                patience=MirrorPatience.of(settings),
                feeds=[
                    *_feeds_of_consumers(settings, postgres, cosmos),
                    *(await _feeds_of_deletes(settings, known, postgres, cosmos, notices)),
                ],
                notices=notices,
            ),
            cache,
            notices,
        )


async def _feeds_of_deletes(
    settings: Settings, mappings: Mappings, engine: AsyncEngine, store: CosmosStore, notices: Notices
) -> list[Feed]:
    """Return the feeds that show hard deletes, if CROSSFEED_MIRROR_ALL_VERSIONS asks for them."""
    return await delete_feeds(engine, store, mappings, settings, notices) if settings.mirror_all_versions else []


def _feeds_of_consumers(settings: Settings, engine: AsyncEngine, store: CosmosStore) -> list[Feed]:
    """Return the feed of the container of events, if CROSSFEED_CONSUMERS names somebody who takes them."""
    handlers = settings.load_consumers()
    if handlers is None:
        return []
    consumers = Consumers(engine, handlers, settings)
    name = store.own.events.name
    return [Feed(consumers.feed_name, store.container_named(name), name, consumers, settings.mirror_page_size)]
