"""Verification at rest sees what was changed since the stores were last compared, and counts the rest."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from core.cosmos.client import open_cosmos
from core.domain.mappings import ACCOUNTS
from core.errors import TransientError
from core.local.cosmos.faults import ByVersions, Lag, Match, Operation, Rule
from core.migration import changed
from core.migration.comparison import Comparison
from core.migration.validation import verify
from core.phases import Phase
from core.postgres.phases import open_phase
from tests.integration.reconcile_steps import hard_delete
from tests.integration.validation_steps import BEHIND, Compared, found

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.local.cosmos import CosmosServer
    from core.mappings import Mappings
    from core.settings import Settings

LATER = timedelta(minutes=5)


@pytest.fixture
def both(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, settings: Settings) -> Compared:
    return Compared(engine, cosmos, mappings, ACCOUNTS, settings=settings)


async def test_from_cosmos_db_every_change_since_is_seen(both: Compared) -> None:
    await both.in_cosmos("same", "old", "soft")
    compared = await both.validate()
    assert compared.is_equal
    assert (await both.verify(compared.as_of)).is_equal
    await both.replaced("old", DisplayName="Newer")
    await both.delete("soft")
    await both.replaced("new")
    assert found(await both.verify(compared.as_of)) == {"old": "stale", "soft": "extra", "new": "missing"}


async def test_from_postgres_every_change_since_is_seen(both: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changed, "_PAGE", 2)
    await both.in_cosmos("before")
    await both.in_postgres("same", "old", "deleted", "forged")
    compared = await both.validate()
    assert compared.is_equal
    assert (await both.verify(compared.as_of)).is_equal
    await both.sql("UPDATE accounts SET role = 'Admin' WHERE id IN ('old', 'before')")
    await both.sql("DELETE FROM accounts WHERE id = 'deleted'", "INSERT INTO accounts (id) VALUES ('new')")
    forged = await both.current("forged")
    assert forged is not None
    await both.foreign({**forged, "DisplayName": "Changed under our stamp"})
    async with both.engine.connect() as connection:
        logged = await changed._logged(connection, compared.as_of)
    assert {identity.id for identity in logged} == {"old", "before", "deleted", "new"}, "and nothing older"
    expected = {"before": "stale", "old": "stale", "deleted": "extra", "new": "missing", "forged": "different"}
    assert found(await both.verify(compared.as_of)) == expected
    await both.publish()
    assert found(await both.verify(compared.as_of)) == {"forged": "different"}


@pytest.mark.parametrize("phase", [Phase.DUAL_WRITE_COSMOS_READ, Phase.DUAL_WRITE_POSTGRES_READ])
async def test_what_nothing_shows_is_counted_and_then_found(both: Compared, phase: Phase) -> None:
    await both.in_cosmos("a", "b", "c")
    if phase is Phase.DUAL_WRITE_POSTGRES_READ:
        await both.in_postgres()
    compared = await both.validate()
    await hard_delete(both, "b")
    kind = "extra" if phase is Phase.DUAL_WRITE_COSMOS_READ else "missing"
    assert found(await both.verify(compared.as_of + LATER)) == {"b": kind}
    await both.sql(BEHIND, "DELETE FROM accounts WHERE id = 'b'")
    assert (await both.verify(compared.as_of + LATER)).is_equal


async def test_what_was_compared_before_is_not_compared_again(both: Compared) -> None:
    await both.in_cosmos("a", "b")
    compared = await both.validate()
    await both.replaced("a", DisplayName="Changed at a time that a switch does not ask for")
    later = await both.verify(compared.as_of + LATER)
    assert (later.is_equal, later.entities["Account"].checked, later.entities["Account"].rows) == (True, 0, 2)


async def test_known_dead_letters_do_not_make_it_compare_everything(both: Compared) -> None:
    await both.in_cosmos("a", "b")
    await both.store.container(ACCOUNTS).upsert_item({"id": "bad", "Email": {"no": "text"}})
    await both.apply(await both.watch())
    compared = await both.validate()
    assert compared.unaccounted == 0
    later = await both.verify(compared.as_of + LATER)
    assert (later.unaccounted, later.entities["Account"].checked) == (0, 1)
    assert [one.letter is not None for one in later.differences] == [True]
    # On the other side it is what the follower has and the primary lacks, for the same reason.
    await open_phase(both.engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    assert (await both.verify(compared.as_of + LATER)).unaccounted == 0


@pytest.mark.parametrize("is_full", [True, False])
async def test_a_replica_that_is_behind_never_makes_two_stores_equal(
    own_cosmos_server: CosmosServer, settings: Settings, engine: AsyncEngine, mappings: Mappings, is_full: bool
) -> None:
    here = settings.model_copy(
        update={"cosmos_endpoint": own_cosmos_server.endpoint, "cosmos_key": SecretStr(own_cosmos_server.key)}
    )
    async with open_cosmos(here) as store:
        await store.provision(mappings)
        both = Compared(engine, store, mappings, ACCOUNTS, settings=here)
        await both.in_cosmos("a", "b")
        compared = await both.validate()
        own_cosmos_server.faults.add(_lagging(0))  # from now on replicas remember
        await both.replaced("a", DisplayName="Acknowledged, and not mirrored")
    since = None if is_full else compared.as_of
    async with open_cosmos(here) as other:  # a session that has seen nothing yet
        own_cosmos_server.faults.add(_lagging(3))
        own_cosmos_server.faults.remove("lagging-0")
        with pytest.raises(TransientError):
            await verify(engine, other, mappings, await both.phase(), since=since)
        own_cosmos_server.faults.clear()
        assert found(await verify(engine, other, mappings, await both.phase(), since=since)) == {"a": "stale"}


async def test_every_document_of_a_range_that_is_split_meanwhile_is_read(
    own_cosmos_server: CosmosServer, settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    here = settings.model_copy(
        update={"cosmos_endpoint": own_cosmos_server.endpoint, "cosmos_key": SecretStr(own_cosmos_server.key)}
    )
    async with open_cosmos(here) as store:
        await store.provision(mappings)
        both = Compared(engine, store, mappings, ACCOUNTS, settings=here)
        await both.in_cosmos(*[f"a{number}" for number in range(12)])
        container = own_cosmos_server.account.container(here.cosmos_database, "Accounts")

        async def split(_charge: float) -> None:
            if len(container.partitions) < 3:
                container.split(container.partitions[0].id)

        phase = await both.phase()
        one = Comparison(engine, store, mappings, phase, entity="Account", page_size=3, rest=split)
        assert [found.identity.id async for found in one.differences()] == []
        assert (one.counts["Account"].rows, one.counts["Account"].documents) == (12, 12)
        assert len(container.partitions) >= 3


def _lagging(versions: int) -> Rule:
    """Let everything that reads be answered by a replica that is so many versions behind."""
    return Rule(
        do=Lag(behind=ByVersions(least=versions, most=versions)),
        on=Match(operations=frozenset({Operation.READ, Operation.FEED, Operation.QUERY})),
        name=f"lagging-{versions}",
    )
