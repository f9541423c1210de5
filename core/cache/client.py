"""Opens the read cache of a process, and takes out of it what was written, whoever says so."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from core.cache.bodies import pointer_body, touched
from core.cache.breaker import Breaker
from core.cache.entries import Change, Entries, Kept
from core.cache.reader import Reader
from core.cache.seen import Seen
from core.cache.stats import CacheStats
from core.cache.telling import Telling
from core.clock import boot_clock
from core.errors import ConfigurationError, MappingError
from core.transport import refuse_plaintext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from core.cache.call import Caller
    from core.cache.changes import Changed
    from core.content import Document
    from core.identity import Identity
    from core.mappings import Mappings
    from core.settings import Settings
    from core.stamp import Stamp

JITTER: Final = 0.1
"""The share of it by which an entry may live longer or shorter: what was filled together is not missed together."""


class Cache:
    """The cache of one process; implements core.cache.changes.Invalidator. Made by `open_cache`.

    Args:
        caller: calls Redis.
        mappings: all mappings.
        settings: what begins with `cache_`.
        stats: counts.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        caller: Caller,
        mappings: Mappings,
        settings: Settings,
        stats: CacheStats,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        longest_s = settings.cache_ttl_s * (1 + JITTER)
        self.stats = stats
        self.clock = clock
        self.mappings = mappings
        self.entries = Entries(caller, settings.cache_prefix, load_s=settings.cache_load_s, floor_s=longest_s)
        self.reader = Reader(self.entries, stats, settings.cache_wait_ms / 1000, clock)
        self.seen = Seen(settings.cache_remembered, longest_s + settings.cache_load_s, clock)
        self._telling = Telling(self.entries, stats, longest_s, clock)
        self._ttl_s = settings.cache_ttl_s
        self._negative_ttl_s = min(settings.cache_negative_ttl_s, settings.cache_ttl_s)
        self._random = random.Random()  # noqa: S311 - spreads, hides nothing

    async def close(self) -> None:
        """Finish what is under way."""
        await self.reader.close()
        await self._telling.close()

    def kept(self, body: bytes, stamp: Stamp | None) -> Kept:
        """Return what to keep of a load; without a body: that there was nothing."""
        ttl_s = self._ttl_s if body else self._negative_ttl_s
        return Kept(body, stamp, ttl_s * self._random.uniform(1 - JITTER, 1 + JITTER))

    async def tell(self, changes: Sequence[Change]) -> int | None:
        """Take away what is older than these writes; see Telling."""
        return await self._telling.tell(changes)

    async def changed(self, changes: Sequence[Changed]) -> None:
        """See Invalidator."""
        if changes:
            await self.tell([entry for change in changes for entry in self._of(change)])

    async def erase(self, identity: Identity, content: Document | None) -> int | None:
        """Remove what is kept of a document, and the look-ups of its content.

        Returns:
            How many entries were removed; None if Redis did not answer: then they are as soon as it does, or go when
            their time is over, whatever is first.

        """
        lookups = (Change(key) for key in self._lookup_keys(identity, content))
        return await self.tell([Change(self.entries.key(identity)), *lookups])

    def _of(self, change: Changed) -> Iterator[Change]:
        yield Change(self.entries.key(change.identity), change.stamp, gone=change.deleted)
        pointer = pointer_body(change.identity)
        for key in self._lookup_keys(change.identity, change.content):
            yield Change(key, keep=pointer)

    def _lookup_keys(self, identity: Identity, content: Document | None) -> Iterator[str]:
        try:
            mapping = self.mappings.named(identity.entity)
        except MappingError:
            return  # nobody here reads it
        values = tuple((content or {}).get(mapping.alias(lookup.field)) for lookup in mapping.lookups)
        for lookup, value in touched(mapping, values):
            yield self.entries.lookup_key(mapping.name, lookup, value)


@asynccontextmanager
async def open_cache(settings: Settings, mappings: Mappings) -> AsyncIterator[Cache | None]:
    """Yield the read cache, None where CROSSFEED_CACHE_URL is not set. Redis need not be there, now or later.

    Raises:
        ConfigurationError: the URL is none, or the package `redis` is not installed; the message names the cure.

    """
    if settings.cache_url is None:
        yield None
        return
    try:
        from core.cache.link import Link  # noqa: PLC0415 - needs the extra `cache`
    except ImportError as error:
        msg = "CROSSFEED_CACHE_URL is set, but redis is not installed; run: pip install 'crossfeed[cache]'"
        raise ConfigurationError(msg) from error
    refuse_plaintext("CROSSFEED_CACHE_URL", settings.cache_url.get_secret_value(), "rediss", settings)
    stats = CacheStats()
    breaker = Breaker(stats, boot_clock, random.Random())  # noqa: S311 - spreads, hides nothing
    try:
        link = Link(settings.cache_url.get_secret_value(), settings.cache_timeout_ms / 1000, breaker, stats)
    except (ValueError, TypeError):  # which may quote a part of the password
        msg = "CROSSFEED_CACHE_URL is not a URI like rediss://user:password@host:6380/0"
        raise ConfigurationError(msg) from None
    cache = Cache(link, mappings, settings, stats)
    try:
        yield cache
    finally:
        try:
            await cache.close()
        finally:
            await link.close()
