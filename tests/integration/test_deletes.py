"""Hard deletes as the feed of all versions shows them: believed at once, unless the document is there again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from changefeed.deletes import ObservedDeletes
from core.cosmos.client import open_cosmos
from core.cosmos.documents import CosmosDocuments
from core.cosmos.feed import feed_ranges
from core.cosmos.feed_all_versions import (
    all_version_pages,
    current_documents,
    deleted_documents,
    is_all_versions,
    offers_all_versions,
)
from core.domain.mappings import ACCOUNTS, PENDING_SIGNUPS
from core.errors import ConfigurationError, StoreUnavailableError
from core.local.cosmos.faults import Match, Operation, Refuse, Rule
from core.postgres.rights import Process
from functions.bootstrap import bootstrap
from outbox.relay import open_relay
from tests.integration.mirror_steps import Steps, same
from tests.integration.reconcile_steps import HOUR, hard_delete, lagging, legacy, mirrored
from tests.integration.relay_steps import make_primary

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.local.cosmos import CosmosServer
    from core.mappings import Mappings
    from core.settings import Settings


@pytest.fixture
def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    return Steps(engine, cosmos, mappings, ACCOUNTS)


class Feed:
    """All versions of the container of some steps, from now on."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._positions: dict[str, str] = {}

    async def read(self) -> list[Document]:
        container = self._steps.store.container(self._steps.mapping)
        found: list[Document] = []
        for feed_range in await feed_ranges(container):
            async for page in all_version_pages(container, feed_range, self._positions.get(feed_range.key), 100):
                self._positions[feed_range.key] = page.continuation
                found += page.documents
        return found


def observed(steps: Steps) -> ObservedDeletes:
    return ObservedDeletes(steps.engine, CosmosDocuments(steps.store, steps.mappings), steps.mappings)


async def apply(steps: Steps, items: list[Any]) -> dict[str, int]:
    deletes = observed(steps)
    await deletes.apply(steps.mapping.container, items, await steps.phase())
    return {name: count for name, count in deletes.counts().items() if count}


async def test_a_row_that_a_foreign_key_holds_holds_up_no_other_delete(steps: Steps) -> None:
    feed = Feed(steps)
    await feed.read()
    await mirrored(steps, "a", "b", "c")
    async with steps.engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE invoices (account_id text REFERENCES accounts (id))")
        await connection.exec_driver_sql("INSERT INTO invoices VALUES ('b')")
    for id_ in ("a", "b", "c"):
        await hard_delete(steps, id_)
    assert await apply(steps, await feed.read()) == {"removed": 2, "kept": 1}
    assert (await steps.held("b")).live_row is not None


async def test_a_hard_delete_is_applied_as_soon_as_it_is_seen(steps: Steps) -> None:
    feed = Feed(steps)
    assert await feed.read() == []
    await mirrored(steps, "a", "b")
    await hard_delete(steps, "b")
    items = await feed.read()
    assert all(map(is_all_versions, items))
    assert [document["id"] for document in current_documents(items)] == ["a", "b"]
    assert [(one.key, one.lsn > 0) for one in deleted_documents(items)] == [({"id": "b"}, True)]
    assert await apply(steps, items) == {"removed": 1}
    assert [await steps.content(id_) is not None for id_ in "ab"] == [True, False]
    # Shown again, both feeds: it stays deleted.
    await steps.apply(steps.history)
    assert await apply(steps, items) == {}
    assert await steps.content("b") is None


async def test_a_document_that_is_there_again_wins_over_its_delete(steps: Steps) -> None:
    feed = Feed(steps)
    await feed.read()
    await mirrored(steps, "a")
    await hard_delete(steps, "a")
    await steps.foreign(legacy("a", DisplayName="again"))
    await steps.apply(steps.history[-1:])
    assert await apply(steps, await feed.read()) == {}
    assert same(await steps.content("a"), await steps.current("a"))


async def test_the_end_of_a_tombstone_is_no_delete(steps: Steps) -> None:
    feed = Feed(steps)
    await feed.read()
    await mirrored(steps, "a")
    await steps.delete("a")
    await hard_delete(steps, "a")  # what its TTL does
    items = await feed.read()
    assert items[-1]["metadata"]["operationType"] == "delete"
    assert deleted_documents(items) == []


async def test_a_delete_is_of_the_partition_that_it_names_and_of_nothing_else(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    steps = Steps(engine, cosmos, mappings, PENDING_SIGNUPS)
    feed = Feed(steps)
    await feed.read()
    for email in ("old@example.org", "new@example.org"):
        await steps.foreign({"id": "s1", "email": email})
    await steps.apply(steps.history)
    await cosmos.container(PENDING_SIGNUPS).delete_item("s1", "old@example.org")
    items = await feed.read()
    for item in items:
        item.pop("previous", None)  # the service may not have it
    assert await apply(steps, items) == {"removed": 1}
    assert await steps.content("s1", "old@example.org") is None
    assert await steps.content("s1", "new@example.org") is not None


async def test_what_somebody_deletes_while_postgres_is_primary_is_published_again(
    steps: Steps, settings: Settings
) -> None:
    feed = Feed(steps)
    await feed.read()
    await mirrored(steps, "a")
    await make_primary(steps.engine)
    await hard_delete(steps, "a")
    assert await apply(steps, await feed.read()) == {"healed": 1}
    await open_relay(settings, steps.mappings, steps.engine, steps.store).drain()
    assert same(await steps.content("a"), await steps.current("a"))


async def test_a_replica_that_is_behind_the_delete_is_asked_again(
    own_cosmos_server: CosmosServer, settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    here = settings.model_copy(
        update={"cosmos_endpoint": own_cosmos_server.endpoint, "cosmos_key": SecretStr(own_cosmos_server.key)}
    )
    async with open_cosmos(here) as store:
        await store.provision(mappings)
        steps = Steps(engine, store, mappings, ACCOUNTS)
        feed = Feed(steps)
        await feed.read()
        await mirrored(steps, "a", "b")
        await hard_delete(steps, "b")
        [item] = [item for item in await feed.read() if item["metadata"]["operationType"] == "delete"]
    async with open_cosmos(here) as other:  # a trigger's worker, whose session has seen nothing
        elsewhere = Steps(engine, other, mappings, ACCOUNTS)
        # As if this replica did not have the change yet that the delete is.
        later = {**item, "metadata": {**item["metadata"], "lsn": item["metadata"]["lsn"] + 5}}
        with pytest.raises(StoreUnavailableError, match="behind its delete"):
            await apply(elsewhere, [later])
        assert await elsewhere.content("b") is not None
        assert await apply(elsewhere, [item]) == {"removed": 1}


async def test_a_delete_that_comes_late_is_not_believed_of_a_replica_that_is_past_it_and_yet_behind(
    own_cosmos_server: CosmosServer, settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    here = settings.model_copy(
        update={"cosmos_endpoint": own_cosmos_server.endpoint, "cosmos_key": SecretStr(own_cosmos_server.key)}
    )
    async with open_cosmos(here) as store:
        await store.provision(mappings)
        steps = Steps(engine, store, mappings, ACCOUNTS)
        feed = Feed(steps)
        await feed.read()
        await mirrored(steps, "a")
        own_cosmos_server.faults.add(lagging(0))  # from now on replicas remember
        await hard_delete(steps, "a")
        items = await feed.read()
        await mirrored(steps, "a")  # again
    async with open_cosmos(here) as other:  # a worker that was down for an hour, whose session has seen nothing
        elsewhere = Steps(engine, other, mappings, ACCOUNTS)
        own_cosmos_server.faults.add(lagging(2))
        own_cosmos_server.faults.remove("lagging-0")
        documents = CosmosDocuments(other, mappings)
        late = ObservedDeletes(engine, documents, mappings, clock=lambda: time.time() + HOUR)
        with pytest.raises(StoreUnavailableError):
            await late.apply(ACCOUNTS.container, items, await elsewhere.phase())
        assert await elsewhere.content("a") is not None
        own_cosmos_server.faults.clear()
        await late.apply(ACCOUNTS.container, items, await elsewhere.phase())
        assert await elsewhere.content("a") is not None


async def test_an_account_without_this_feed_is_told_apart(
    own_cosmos_server: CosmosServer, settings: Settings, mappings: Mappings
) -> None:
    here = settings.model_copy(
        update={"cosmos_endpoint": own_cosmos_server.endpoint, "cosmos_key": SecretStr(own_cosmos_server.key)}
    )
    async with open_cosmos(here) as store:
        await store.provision(mappings)
        container = store.container(ACCOUNTS)
        assert await offers_all_versions(container)
        refuse = Refuse(status=400)
        own_cosmos_server.faults.add(Rule(do=refuse, on=Match(operations=frozenset({Operation.FEED})), name="none"))
        assert not await offers_all_versions(container)
        own_cosmos_server.faults.clear()
        [feed_range, *_] = await feed_ranges(container)
        with pytest.raises((ConfigurationError, ValueError)):
            async for _ in all_version_pages(container, feed_range, "garbage", 1):
                pass


async def test_a_processor_follows_both_feeds_and_begins_where_it_was_first_started(
    steps: Steps, settings: Settings
) -> None:
    await mirrored(steps, "a", "b")
    here = settings.model_copy(update={"mirror_all_versions": True})
    async with bootstrap(here, process=Process.MIRROR, engine=steps.engine, store=steps.store) as application:
        await application.processor.run_once()
    await hard_delete(steps, "b")  # while nobody runs
    await steps.foreign(legacy("c"))
    async with bootstrap(here, process=Process.MIRROR, engine=steps.engine, store=steps.store) as application:
        await application.processor.run_once()
    assert [await steps.content(id_) is not None for id_ in "abc"] == [True, False, True]
