"""Measures the guarded write to Cosmos DB against the SDK's own replace, one by one and where batches are possible."""

from __future__ import annotations

import asyncio
import uuid
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Final

from azure.core import MatchConditions
from pydantic import SecretStr

from core.cosmos.client import CosmosStore, open_cosmos
from core.cosmos.guarded import GuardedWriter, Written
from core.cosmos.publish import Publish, publish_state
from core.identity import Identity
from core.settings import Settings
from core.stamp import Stamp
from tests.bench.server import server_process
from tests.bench.wire import WrongAnswerError
from tests.cosmos.example import LINES, MAPPINGS, Kept

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CONCURRENCY: Final = 32
DOCUMENTS: Final = 800
"""How many documents are written in one go; each belongs to an account, of which there are many or few."""
TEXT: Final = "x" * 400


async def measure(seconds: float, rounds: int) -> dict[str, float | int | str]:
    """Return documents a second: the SDK's replace in a bare loop, the guarded write, and in batches.

    Raises:
        WrongAnswerError: a document was not written.

    """
    with server_process() as server:
        settings = Settings(
            cosmos_endpoint=server.endpoint,
            cosmos_key=SecretStr(server.key),
            cosmos_database=f"bench-{uuid.uuid4().hex[:8]}",
        )
        async with open_cosmos(settings) as store:
            await store.provision(MAPPINGS)
            ways = [await _sdk(store), await _guarded(store, "single", 1), await _guarded(store, "batch", 100)]
            rates: list[list[float]] = [[] for _ in ways]
            for _ in range(rounds):
                for way, of_way in zip(ways, rates, strict=True):
                    of_way.append(await _rate(way, seconds / rounds))
    sdk, single, batched = map(median, rates)
    return {
        "sdk_documents_per_s": round(sdk),
        "relay_documents_per_s": round(single),
        "ratio": round(single / sdk, 3),
        "batched_documents_per_s": round(batched),
        "batched_ratio": round(batched / sdk, 2),
        "concurrency": CONCURRENCY,
    }


async def _rate(way: Callable[[], Awaitable[None]], seconds: float) -> float:
    began = perf_counter()
    written = 0
    while perf_counter() - began < seconds:
        await way()
        written += DOCUMENTS
    return written / (perf_counter() - began)


def _state(run: str, number: int, version: int, per_account: int) -> Publish:
    account = f"{run}-{number // per_account}"
    identity = Identity.of(LINES.name, [account], f"{run}-{number}")
    content = {"id": identity.id, "accountId": account, "Text": f"{version} {TEXT}", "Code": identity.id}
    return publish_state(LINES, identity, Stamp(1, version), content, taken_etag=None, loaded_in=1)


async def _sdk(store: CosmosStore) -> Callable[[], Awaitable[None]]:
    """Replace documents of which the ETags are known, in a loop over the SDK, as many at a time as the relay has."""
    container = store.container(LINES)
    etags: dict[int, str] = {}
    for number in range(DOCUMENTS):
        answer = await container.create_item(_state("sdk", number, 1, 1).document)
        etags[number] = answer["_etag"]
    version = 1

    async def once() -> None:
        nonlocal version
        version += 1
        numbers = iter(range(DOCUMENTS))

        async def lane() -> None:
            for number in numbers:
                item = _state("sdk", number, version, 1)
                answer = await container.replace_item(
                    item.identity.id,
                    item.document,
                    etag=etags[number],
                    match_condition=MatchConditions.IfNotModified,
                )
                etags[number] = answer["_etag"]

        async with asyncio.TaskGroup() as lanes:
            for _ in range(CONCURRENCY):
                lanes.create_task(lane())

    return once


async def _guarded(store: CosmosStore, run: str, per_account: int) -> Callable[[], Awaitable[None]]:
    writer = GuardedWriter(store, MAPPINGS, Kept(), CONCURRENCY)
    version = 0

    async def once() -> None:
        nonlocal version
        version += 1
        items = [_state(run, number, version, per_account) for number in range(DOCUMENTS)]
        outcomes = await writer.write(items)
        if not all(isinstance(outcome, Written) for outcome in outcomes):
            msg = f"{outcomes}"
            raise WrongAnswerError(msg)

    await once()
    return once
