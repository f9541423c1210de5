"""Counts the request units of each operation, against those of the plain SDK: by the embedded server's model of them.

That model is 1 RU per KiB read and 4.95 + 1.34 per KiB written, in whole KiB, a refused request included; Azure charges
by indexes, consistency and regions as well. So what these figures say is how many requests there are, and how large.
"""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import orjson
from azure.core import MatchConditions
from pydantic import SecretStr

from core.content import content_of
from core.cosmos.client import CosmosStore, open_cosmos
from core.cosmos.feed import feed_ranges, pages
from core.cosmos.guarded import GuardedWriter, Written
from core.cosmos.publish import Publish, publish_state
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.domain.account import Account
from core.domain.events import AccountRegistered
from core.domain.mappings import ACCOUNTS
from core.mappings import Mappings
from core.query import Equals, Query
from core.settings import Settings
from core.stamp import Stamp
from tests.bench.server import server_process
from tests.bench.wire import WrongAnswerError
from tests.cosmos.example import Kept

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

LISTED: Final = 10
"""Documents that the list finds."""
_MAPPINGS: Final = Mappings([ACCOUNTS])
_TTL_S: Final = 3600


class Meter:
    """Adds up what a store's requests for documents are charged: what a client asks of a container once is left out."""

    def __init__(self, store: CosmosStore) -> None:
        self._sum = 0.0
        transport: Any = store.client.client_connection.pipeline_client._pipeline._transport
        send = transport.send

        async def counted(request: Any, **options: Any) -> Any:
            answer = await send(request, **options)
            if "/docs/" in request.url:
                self._sum += float(answer.headers.get("x-ms-request-charge", 0))
            return answer

        transport.send = counted

    async def of(self, doing: Awaitable[object]) -> float:
        """Do something, and return its request units."""
        before = self._sum
        await doing
        return round(self._sum - before, 2)


async def measure(seconds: float, rounds: int) -> dict[str, float | int | str]:
    """Return the request units of each operation on one document, and of the SDK's where it has one; nothing is timed.

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
            await store.provision(_MAPPINGS)
            meter = Meter(store)
            return {
                **await _by_us(store, meter),
                **await _by_sdk(store, meter),
                **await _by_relay(store, meter),
                "list_finds": LISTED,
                "content_bytes": len(orjson.dumps(ACCOUNTS.document(account("a")))),
            }


def account(id_: str, role: str = "Guest") -> Account:
    """Return an account of the usual size."""
    scenarios = [f"scenario-{number:04}" for number in range(20)]
    return Account(id=id_, email=f"{id_}@example.org", role=role, completed_scenario_ids=scenarios)


def _work(store: CosmosStore) -> CosmosUnitOfWork:
    return CosmosUnitOfWork(store, _MAPPINGS, 1)


@asynccontextmanager
async def _committed(store: CosmosStore) -> AsyncIterator[CosmosUnitOfWork]:
    async with _work(store) as work:
        yield work
        await work.commit()


async def _by_us(store: CosmosStore, meter: Meter) -> dict[str, float]:
    """Through the repositories, Cosmos DB being the primary."""

    async def create(id_: str, role: str) -> None:
        async with _committed(store) as work:
            await work[Account].add(account(id_, role))

    async def update(id_: str, *, event: bool = False) -> None:
        async with _committed(store) as work:
            found = await _found(work, id_)
            await work[Account].update(found.model_copy(update={"role": "Admin"}))
            if event:
                work.record(AccountRegistered(email=found.email, display_name=found.display_name), of=found)

    async def delete() -> None:
        async with _committed(store) as work:
            await work[Account].delete(await _found(work, "a"))

    async def read() -> None:
        async with _work(store) as work:
            await _found(work, "a")

    charges = {
        "create": await meter.of(create("a", "Guest")),
        "read": await meter.of(read()),
        "update": await meter.of(update("a")),
        "delete": await meter.of(delete()),
    }
    await create("b", "Guest")
    charges["update_with_event"] = await meter.of(update("b", event=True))
    for number in range(LISTED):
        await create(f"listed-{number}", "Listed")
    return {**charges, "list": await meter.of(_listed(store)), "feed_per_document": await _feed(store, meter)}


async def _found(work: CosmosUnitOfWork, id_: str) -> Account:
    found = await work[Account].get_by_id(id_)
    if found is None:
        msg = "what was written is not there"
        raise WrongAnswerError(msg)
    return found


async def _listed(store: CosmosStore) -> None:
    async with _work(store) as work:
        found = await work[Account].list(Query((Equals("role", "Listed"),)))
    if len(found) != LISTED:
        msg = f"{len(found)} documents instead of {LISTED}"
        raise WrongAnswerError(msg)


async def _feed(store: CosmosStore, meter: Meter) -> float:
    """Return what a document in the change feed costs, in pages of a hundred."""
    documents = 0

    async def read() -> None:
        nonlocal documents
        container = store.container(ACCOUNTS)
        for feed_range in await feed_ranges(container):
            async for page in pages(container, feed_range, None, 100):
                documents += len(page.documents)

    return round(await meter.of(read()) / documents, 2)


async def _by_sdk(store: CosmosStore, meter: Meter) -> dict[str, float]:
    """By the SDK alone: updates and deletes with the ETag that was read, as whoever is careful does."""
    container = store.container(ACCOUNTS)
    document = ACCOUNTS.document(account("sdk"))

    async def update() -> None:
        found = await container.read_item("sdk", "sdk")
        await container.replace_item(
            "sdk", {**document, "Role": "Admin"}, etag=found["_etag"], match_condition=MatchConditions.IfNotModified
        )

    async def delete() -> None:
        found = await container.read_item("sdk", "sdk")
        await container.delete_item("sdk", "sdk", etag=found["_etag"], match_condition=MatchConditions.IfNotModified)

    async def listed() -> None:
        found = container.query_items("SELECT * FROM c WHERE c.Role = 'Listed'")
        _ = [item async for item in found]

    return {
        "create_by_sdk": await meter.of(container.create_item(document)),
        "read_by_sdk": await meter.of(container.read_item("sdk", "sdk")),
        "update_by_sdk": await meter.of(update()),
        "delete_by_sdk": await meter.of(delete()),
        "list_by_sdk": await meter.of(listed()),
    }


async def _by_relay(store: CosmosStore, meter: Meter) -> dict[str, float]:
    """By the guarded write of a relay: what it wrote before it knows, what another one wrote it has to look at."""
    writer, other = (GuardedWriter(store, _MAPPINGS, Kept(), 1) for _ in range(2))
    identity = ACCOUNTS.identity_of("relayed", "relayed")

    def state(version: int) -> Publish:
        content = content_of(ACCOUNTS.document(account("relayed", f"role {version}")))
        return publish_state(ACCOUNTS, identity, Stamp(1, version), content, taken_etag=None, loaded_in=1)

    async def write(by: GuardedWriter, item: Publish) -> None:
        [outcome] = await by.write([item])
        if not isinstance(outcome, Written):
            msg = f"{outcome}"
            raise WrongAnswerError(msg)

    gone = publish_state(ACCOUNTS, identity, Stamp(1, 5), None, taken_etag=None, loaded_in=1, tombstone_ttl_s=_TTL_S)
    return {
        "relay_first": await meter.of(write(writer, state(1))),
        "relay_again": await meter.of(write(writer, state(2))),
        "relay_after_a_restart": await meter.of(write(other, state(3))),
        "relay_delete": await meter.of(write(other, gone)),
    }
