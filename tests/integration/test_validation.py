"""Validation names every difference, whichever store is the primary, and finds nothing where there is none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from core.content import content_of
from core.domain.mappings import ACCOUNTS, PENDING_SIGNUPS
from core.domain.samples import sample_documents
from core.envelope import Origin, stamped
from core.errors import ConfigurationError, PrimaryMovedError
from core.migration import validation
from core.migration.comparison import Comparison, compare
from core.migration.validation import validate
from core.phases import Phase
from core.postgres.phases import open_phase
from core.stamp import Stamp
from tests.integration.mirror_steps import Steps
from tests.integration.reconcile_steps import hard_delete, hasty
from tests.integration.validation_steps import BEHIND, Compared, found

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings


@pytest.fixture
def both(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, settings: Settings) -> Compared:
    return Compared(engine, cosmos, mappings, ACCOUNTS, settings=settings)


async def test_awkward_documents_of_all_types_are_equal_in_both_directions_and_deep(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, settings: Settings
) -> None:
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    documents = sample_documents(60, 3)
    for mapping in mappings:
        steps = Steps(engine, cosmos, mappings, mapping)
        for document in documents[mapping.container]:
            await cosmos.container(mapping).upsert_item(document)
        await steps.apply(await steps.watch())
    for phase in (Phase.DUAL_WRITE_COSMOS_READ, Phase.DUAL_WRITE_POSTGRES_READ):
        if phase is Phase.DUAL_WRITE_POSTGRES_READ:
            await open_phase(engine, phase, who="test", why="test")
            await Compared(engine, cosmos, mappings, ACCOUNTS, settings=settings).publish()
        parity = await validate(engine, cosmos, mappings, hasty(settings), deep=True, settle_s=0)
        assert parity.is_equal, parity.facts()
        assert sum(one.rows for one in parity.entities.values()) == sum(map(len, documents.values()))


async def test_every_kind_of_difference_is_named_while_cosmos_db_is_the_primary(both: Compared) -> None:
    await both.in_cosmos("same", "gone", "old", "edited")
    await hard_delete(both, "gone")
    await both.replaced("old", DisplayName="Newer")
    await both.replaced("new")
    await both.sql(BEHIND, "UPDATE accounts SET email = 'x@example.org', role = 'Admin' WHERE id = 'edited'")
    assert found(await both.validate()) == {"gone": "extra", "old": "stale", "new": "missing"}
    parity = await both.validate(deep=True)
    assert found(parity) == {"gone": "extra", "old": "stale", "new": "missing", "edited": "different"}
    fields = {one.identity.id: one.fields for one in parity.differences}
    assert fields["edited"] == ("Email", "Role")
    assert fields["old"] == ("DisplayName",)
    one = parity.entities["Account"]
    assert (one.rows, one.documents, one.total, one.accounted) == (4, 4, 4, 0)
    assert (parity.is_equal, parity.unaccounted) == (False, 4)


async def test_every_kind_of_difference_is_named_while_postgres_is_the_primary(both: Compared) -> None:
    await both.in_cosmos("before", "rogue")
    await both.in_postgres("same", "gone", "old", "edited", "unverified")
    await hard_delete(both, "gone")
    old = await both.current("old")
    unverified = await both.current("unverified")
    assert old is not None
    assert unverified is not None
    await both.sql("UPDATE accounts SET role = 'Admin' WHERE id = 'old'")
    await both.publish()
    await both.foreign(stamped(content_of(old), Stamp(3, 1), Origin.POSTGRES))
    await both.foreign({**unverified, "DisplayName": "Changed under our stamp"})
    await both.replaced("rogue", DisplayName="Written by the old application")
    await both.replaced("stranger")
    await both.sql(BEHIND, "UPDATE accounts SET role = 'Admin' WHERE id = 'edited'")
    expected = {"gone": "missing", "old": "stale", "unverified": "different", "rogue": "stale", "stranger": "extra"}
    assert found(await both.validate()) == expected
    assert found(await both.validate(deep=True)) == {**expected, "edited": "different"}


async def test_a_tombstone_is_no_document_and_a_deleted_row_no_row(both: Compared) -> None:
    await both.in_cosmos()
    await both.in_postgres("a", "b")
    await both.sql("DELETE FROM accounts WHERE id = 'a'")
    assert found(await both.validate()) == {"a": "extra"}
    await both.publish()
    parity = await both.validate(deep=True)
    assert (parity.is_equal, parity.entities["Account"].documents) == (True, 1)


async def test_what_arrives_within_the_lag_window_is_no_difference(both: Compared) -> None:
    await both.in_cosmos("a")
    await both.replaced("a", DisplayName="On its way")
    await both.replaced("b")

    async def mirror() -> None:
        await asyncio.sleep(0.2)
        await both.apply(await both.watch())

    parity, _ = await asyncio.gather(both.validate(settle_s=0.6), mirror())
    assert parity.is_equal, parity.facts()


async def test_however_much_is_under_way_it_is_no_difference(both: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "LOOKED_AT", 2)
    ids = ["a", "b", "c", "d", "e"]
    await both.in_cosmos(*ids)
    for id_ in ids:
        await both.replaced(id_, DisplayName="Under way")

    async def mirror() -> None:
        await asyncio.sleep(0.5)
        await both.apply(await both.watch())

    parity, _ = await asyncio.gather(both.validate(settle_s=1.5), mirror())
    assert parity.is_equal, parity.facts()


async def test_what_is_written_all_the_time_is_called_busy_and_not_different(both: Compared) -> None:
    await both.in_cosmos("a", "stays behind")
    await both.replaced("stays behind", DisplayName="Lost by the mirror")
    is_over = asyncio.Event()

    async def write() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            await both.replaced("a", DisplayName=str(number))
            await asyncio.sleep(0.005)

    writer = asyncio.ensure_future(write())
    try:
        parity = await both.validate(settle_s=0.1)
    finally:
        is_over.set()
        await writer
    assert found(parity) == {"stays behind": "stale"}
    assert parity.entities["Account"].busy == 1
    assert not parity.is_equal


async def test_what_the_follower_refused_is_accounted_for_by_its_dead_letter(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, settings: Settings
) -> None:
    both = Compared(engine, cosmos, mappings, PENDING_SIGNUPS, settings=settings)
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    container = cosmos.container(PENDING_SIGNUPS)
    await container.upsert_item({"id": "bad", "email": "a@example.org", "FailedAttempts": "many"})
    await container.upsert_item({"id": "keyless", "email": 5})
    await container.upsert_item({"id": "lost", "email": "b@example.org"})
    shown = await both.watch()
    await both.apply([one for one in shown if one["id"] != "lost"])
    for parity in (await both.validate(), await both.verify()):
        letters = {one.identity.id: one.letter is not None for one in parity.differences}
        assert letters == {"bad": True, "keyless": True, "lost": False}
        assert parity.unaccounted == 1


async def test_differences_are_named_up_to_the_limit_and_counted_beyond(both: Compared) -> None:
    await both.in_cosmos()
    for number in range(5):
        await both.replaced(f"a{number}")
    parity = await both.validate(limit=2)
    assert (len(parity.differences), parity.entities["Account"].total) == (2, 5)


async def test_a_comparison_whose_phase_moved_says_nothing(both: Compared) -> None:
    await both.in_cosmos("a")
    await both.replaced("b")

    async def move() -> None:
        await asyncio.sleep(0.1)
        await open_phase(both.engine, Phase.COSMOS_ONLY, who="test", why="test")

    with pytest.raises(PrimaryMovedError, match="compare again"):
        await asyncio.gather(both.validate(settle_s=0.5), move())


async def test_the_raw_comparison_looks_once_and_waits_for_nothing(both: Compared) -> None:
    await both.in_cosmos("a", "b")
    await both.replaced("a", DisplayName="x")
    await open_phase(both.engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    phase = await both.phase()
    names = [one.identity.id async for one in compare(both.engine, both.store, both.mappings, phase)]
    assert names == ["a"]


async def test_a_comparison_ends_although_somebody_writes_without_a_rest(both: Compared) -> None:
    await both.in_cosmos("a", "b", "c")
    pages = 0

    async def write(_charge: float) -> None:
        nonlocal pages
        pages += 1
        await both.replaced(f"late-{pages}")

    phase = await both.phase()
    one = Comparison(both.engine, both.store, both.mappings, phase, entity="Account", page_size=1, rest=write)
    async with asyncio.timeout(10):
        assert [found.identity.id async for found in one.differences()] == []
    assert pages <= 10
    assert one.counts["Account"].documents == 3


async def test_an_entity_type_that_nobody_mapped_is_refused_by_name(both: Compared) -> None:
    with pytest.raises(ConfigurationError, match="no mapping is called 'Acount'; there are Account"):
        await validate(both.engine, both.store, both.mappings, both.quick, entity="Acount")
