"""The checks of a step that Cosmos DB answers: the account, its containers, clocks, lag, and who else writes to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from core.cosmos.failures import DRIVER_ERRORS, read_error
from core.cosmos.feed import FeedRange, pages
from core.envelope import Foreign, author_of
from core.errors import ConfigurationError
from core.migration.announcing import is_announced
from core.migration.checks import TO_COSMOS, TO_POSTGRES, Asked, Check, answered, found
from core.postgres.engine import fetch
from core.postgres.failures import translated

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore

MAX_SKEW_S: Final = 10.0
"""How far two clocks may be apart, in seconds. Leases are measured on one clock each; ages and windows are not."""
_PAGE: Final = 100

_NOW = "SELECT VALUE GetCurrentTimestamp()"
_POSTGRES_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
_RANGES = """
    SELECT feed, lower_bound, upper_bound, continuation FROM crossfeed.feed_range
    WHERE feed = %(feed)s ORDER BY lower_bound
"""
_CANARIES = """
    SELECT coalesce(extract(epoch FROM clock_timestamp() - min(unseen_since)), 0)::float8 FROM crossfeed.canary
    WHERE direction = 'to_postgres' AND container = %(container)s
"""
_LAST_FOREIGN = "SELECT VALUE MAX(c._ts) FROM c WHERE NOT IS_DEFINED(c.crossfeed)"
# What wrote over a document of ours kept its envelope: only the hash tells.
_RECENT = "SELECT * FROM c WHERE c._ts >= @since AND NOT IS_DEFINED(c.crossfeed.kind)"


async def ask_cosmos(asked: Asked) -> list[Check]:
    """Ask Cosmos DB; where it does not answer, that is the one check."""
    account = await answered("account", _account(asked), "check CROSSFEED_COSMOS_ENDPOINT and the account")
    if not account.ok:
        return [account]
    again = "bring Cosmos DB back, and ask again"
    return [
        account,
        await answered("containers", _containers(asked), again),
        await answered("clocks", _clocks(asked), again),
        await answered("mirror lag", _lag(asked), again),
        await answered("announced", _announced(asked), again),
        await answered("foreign writers", _foreign(asked), again),
    ]


async def _account(asked: Asked) -> Check:
    problems = []
    try:
        await asked.store.check([])
    except ConfigurationError as error:
        problems.append(str(error))
    return found(
        "account",
        problems,
        "answers, and has a single write region",
        "switch multi-region writes off, or check CROSSFEED_COSMOS_ENDPOINT, CROSSFEED_COSMOS_KEY and"
        " CROSSFEED_COSMOS_DATABASE",
    )


async def _containers(asked: Asked) -> Check:
    problems = []
    try:
        await asked.store.check(asked.mappings, asked.store.own)
    except ConfigurationError as error:
        problems.append(str(error))
    return found(
        "containers",
        problems,
        "are there, with TTL on, with the mappings' keys",
        "change them as it says; a partition key takes a new container",
    )


async def _clocks(asked: Asked) -> Check:
    skews = await clock_skews(asked.engine, asked.store)
    said = [f"{name} {skew:+.1f} s" for name, skew in skews.items()]
    problems = [text for text, skew in zip(said, skews.values(), strict=True) if abs(skew) > MAX_SKEW_S]
    return found("clocks", problems, ", ".join(said), "set the clocks of this machine and of the database server (NTP)")


async def clock_skews(engine: AsyncEngine, store: CosmosStore) -> dict[str, float]:
    """Return how far each store's clock is ahead of this machine's, and of each other, in seconds.

    Raises:
        StoreUnavailableError: a store did not answer.

    """
    here = time.time()
    cosmos_s = await _now(store)
    between = time.time()
    with translated("reading the clock"):
        async with engine.connect() as connection:
            [(postgres_s,)] = await fetch(connection, _POSTGRES_NOW, {})
    skews = {
        "Cosmos DB": _skew(cosmos_s, here, between),
        "Postgres": _skew(postgres_s, between, time.time()),
    }
    skews["Postgres against Cosmos DB"] = skews["Postgres"] - skews["Cosmos DB"]
    return skews


def _skew(there: float, before: float, after: float) -> float:
    """Return how far a clock is ahead of this machine's, as little as the time of its answer allows."""
    if there < before:
        return there - before
    return max(0.0, there - after)


async def _now(store: CosmosStore) -> float:
    """Return Cosmos DB's time, in seconds since 1970."""
    control = store.own.control.name
    return float(await _first(store, control, _NOW, partition_key="clock")) / 1000


async def _first(store: CosmosStore, container: str, query: str, **options: Any) -> Any:  # noqa: ANN401 - JSON, the SDK's
    try:
        async for value in store.container_named(container).query_items(query, **options):
            return value
    except DRIVER_ERRORS as error:
        raise read_error(error, f"querying {container!r}") from error
    return None


async def _lag(asked: Asked) -> Check:
    """How old is the oldest change that waits for the mirror, by its own position in each feed."""
    if asked.step != TO_POSTGRES:
        return found("mirror lag", [], "not asked: this step does not wait for the mirror", "")
    now = await _now(asked.store)
    lags = {container: await _lag_of(asked, container, now) for container in asked.mappings.containers}
    most = asked.settings.mirror_max_lag_s
    late = {container: lag for container, lag in lags.items() if lag > most}
    problems = [f"{container} is {lag:.0f} s behind, more than {most:.0f}" for container, lag in late.items()]
    return found(
        "mirror lag",
        problems,
        f"at most {max(lags.values(), default=0.0):.1f} s",
        "wait until the mirror has caught up, or give it more processes",
    )


async def _lag_of(asked: Asked, container: str, now: float) -> float:
    with translated("reading the positions of the mirror"):
        async with asked.engine.connect() as connection:
            ranges = await fetch(connection, _RANGES, {"feed": f"mirror/{container}"})
            [(unseen_s,)] = await fetch(connection, _CANARIES, {"container": container})
    lag = float(unseen_s) if not ranges else 0.0
    for _, lower, upper, continuation in ranges:
        feed = pages(asked.store.container_named(container), FeedRange.between(lower, upper), continuation, 1)
        page = await anext(feed)
        await feed.aclose()
        if page.documents:
            lag = max(lag, now - float(page.documents[0]["_ts"]))
    return lag


async def _announced(asked: Asked) -> Check:
    """Whether processes that run without Postgres can know that phase 0 is over: the fence does not stop them."""
    if asked.step != TO_POSTGRES:
        return found("announced", [], "not asked: Cosmos DB does not stop being the primary in this step", "")
    phase = asked.phase
    problems = []
    if not await is_announced(asked.engine, asked.store, phase):
        problems.append(f"Cosmos DB was not told of epoch {phase.epoch}: a process of phase 0 may still start")
    return found("announced", problems, f"Cosmos DB knows of epoch {phase.epoch}", "run: crossfeed phase resume")


async def _foreign(asked: Asked) -> Check:
    """When somebody who does not use Crossfeed wrote last: no switch can stop such a writer.

    Nor on the way back: what it writes after the verification is the primary's word once Cosmos DB is that, and takes
    the place of what Postgres has acknowledged.
    """
    if asked.step not in {TO_POSTGRES, TO_COSMOS}:
        return found("foreign writers", [], "not asked: the primary stays what it is in this step", "")
    quiet_s = asked.options.foreign_quiet_s
    now = await _now(asked.store)
    problems, ages = [], {}
    for container in asked.mappings.containers:
        last = await _first(asked.store, container, _LAST_FOREIGN)
        if isinstance(last, int):
            ages[container] = now - last
            if now - last < quiet_s:
                problems.append(f"{container} was written {now - last:.0f} s ago by no process of ours")
                continue
        if quiet_s > 0 and (id_ := await _overwritten(asked, container, int(now - quiet_s))) is not None:
            problems.append(f"{container} has {id_}, written in the last {quiet_s:.0f} s over a document of ours")
    shown = ", ".join(f"{container} {age:.0f} s ago" for container, age in ages.items())
    return found(
        "foreign writers",
        problems,
        f"none in the last {quiet_s:.0f} s" + (f"; their last writes: {shown}" if shown else ""),
        "take their keys or roles away, and wait: what they write later is found and shown, but not protected",
    )


async def _overwritten(asked: Asked, container: str, since: int) -> str | None:
    """Return the id of one document that somebody else wrote since then, None if there is none."""
    recent = asked.store.container_named(container).query_items(
        _RECENT, parameters=[{"name": "@since", "value": since}], max_item_count=_PAGE
    )
    try:
        async for document in recent:
            if isinstance(author_of(document), Foreign):
                return str(document["id"])
    except DRIVER_ERRORS as error:
        raise read_error(error, f"looking for foreign writers in {container!r}") from error
    return None
