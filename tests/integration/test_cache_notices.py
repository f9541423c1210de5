"""What relay, mirror, reconcile and repair tell a cache, and that whatever it does with it holds up none of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from changefeed.deletes import ObservedDeletes
from changefeed.processor import Processor
from changefeed.reconcile import Reconcile
from core.cache.notices import Notices
from core.content import ENVELOPE
from core.cosmos.documents import CosmosDocuments
from core.cosmos.feed import feed_ranges
from core.cosmos.feed_all_versions import all_version_pages
from core.domain.account import Account
from core.domain.mappings import ACCOUNTS
from core.migration.repair import repair
from core.phases import Phase
from core.stamp import Stamp
from outbox.cursor import SERVER
from outbox.publisher import Publisher
from outbox.relay import Relay, open_relay
from tests.integration.mirror_steps import Steps
from tests.integration.reconcile_steps import hard_delete, hasty, mirrored
from tests.integration.relay_steps import MemorySink, make_primary, run
from tests.integration.validation_steps import Compared
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.cache.changes import Changed
    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.mappings import Mappings
    from core.settings import Settings


@dataclass
class Told:
    """A cache that only listens; `broken` says what it does instead."""

    changes: list[Changed] = field(default_factory=list)
    broken: str = ""

    async def changed(self, changes: Sequence[Changed]) -> None:
        match self.broken:
            case "hangs":
                await asyncio.Event().wait()
            case "raises":
                raise RuntimeError
            case _:
                self.changes += changes

    def of(self, id_: str) -> list[Changed]:
        return [change for change in self.changes if change.identity.id == id_]


@pytest.fixture
def told() -> Told:
    return Told()


class Marked:
    """A lineage that counts what should be marked in Cosmos DB."""

    def __init__(self) -> None:
        self.noted = 0

    async def check(self, connection: AsyncConnection, slots: Sequence[int]) -> str:
        return str((await connection.exec_driver_sql(f"SELECT {SERVER}")).scalar_one())

    def note(self, slots: Sequence[int], tokens: Sequence[int], mark: object) -> None:
        self.noted += 1

    async def mark(self) -> None:
        pass


def account(id_: str) -> Identity:
    return ACCOUNTS.identity_of(id_, id_)


async def test_the_relay_tells_the_state_that_it_loaded_of_everything_that_a_page_names(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, told: Told
) -> None:
    await make_primary(engine)
    await run(
        engine,
        "INSERT INTO accounts (id, email) VALUES ('a', 'a@example.org'), ('b', ''), ('gone', '')",
        "INSERT INTO accounts (id, settings) VALUES ('refused', '{\"n\": 0.12345678901234567890123}')",
        "DELETE FROM accounts WHERE id = 'gone'",
        "UPDATE accounts SET email = 'new@example.org' WHERE id = 'a'",
    )
    await Relay(settings, mappings, engine, MemorySink(), notices=Notices(told)).drain()
    [a] = told.of("a")
    assert (a.identity, a.stamp, a.deleted) == (account("a"), Stamp(2, 2), False)
    assert a.content is not None
    assert a.content["Email"] == "new@example.org"
    [gone] = told.of("gone")
    assert (gone.stamp, gone.deleted, gone.content) == (Stamp(2, 2), True, None)
    [refused] = told.of("refused")
    assert (refused.stamp, refused.deleted, refused.content) == (None, False, None)
    assert len(told.changes) == 4


async def test_in_postgres_only_all_that_the_log_names_is_told_and_nothing_is_sent_then_or_later(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, told: Told
) -> None:
    await make_primary(engine, Phase.POSTGRES_ONLY)
    small = settings.model_copy(update={"relay_page_size": 2})
    await run(engine, *[f"INSERT INTO accounts (id) VALUES ('a{number}')" for number in range(7)])
    sink, lineage = MemorySink(), Marked()
    relay = Relay(small, mappings, engine, sink, notices=Notices(told), lineage=lineage)
    await relay.drain()
    assert lineage.noted == 0, "Cosmos DB may be gone in this phase"
    assert sorted(change.identity.id for change in told.changes) == [f"a{number}" for number in range(7)]
    assert {change.stamp for change in told.changes} == {Stamp(2, 1)}
    await make_primary(engine)
    await relay.drain()
    assert sink.history == []
    async with engine.connect() as connection:
        moved = await connection.exec_driver_sql("SELECT count(*) FROM crossfeed.slot WHERE target IS NOT NULL")
        assert moved.scalar_one() == 0


async def test_a_relay_without_a_cache_does_not_read_what_it_does_not_send(
    settings: Settings, engine: AsyncEngine, mappings: Mappings
) -> None:
    await make_primary(engine, Phase.POSTGRES_ONLY)
    await run(engine, "INSERT INTO accounts (id) SELECT 'a' || n FROM generate_series(1, 50) n")
    relay = Relay(settings.model_copy(update={"relay_page_size": 2}), mappings, engine, MemorySink())
    assert await relay.drain() == 0


@pytest.mark.parametrize("broken", ["hangs", "raises"])
@pytest.mark.parametrize("phase", [Phase.DUAL_WRITE_POSTGRES_READ, Phase.POSTGRES_ONLY])
async def test_a_cache_that_does_not_answer_holds_up_no_relay(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, broken: str, phase: Phase
) -> None:
    await make_primary(engine, phase)
    await run(engine, "INSERT INTO accounts (id) SELECT 'a' || n FROM generate_series(1, 5) n")
    notices = Notices(Told(broken=broken), within_s=0.05)
    sink = MemorySink()
    async with asyncio.timeout(5):
        await Relay(settings, mappings, engine, sink, notices=notices).drain()
    assert len(sink.history) == (5 if phase is Phase.DUAL_WRITE_POSTGRES_READ else 0)
    assert notices.missed == 5


async def test_while_a_store_refuses_the_cache_is_told_all_the_same(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, told: Told
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")

    def refuse(_: object) -> None:
        raise RuntimeError

    relay = Relay(settings, mappings, engine, MemorySink(before=refuse), notices=Notices(told))
    with pytest.raises(RuntimeError):
        await relay.run_once()
    assert [change.identity for change in told.changes] == [account("a")]


@pytest.fixture
async def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    await switch_phase(engine, cosmos, mappings, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    return Steps(engine, cosmos, mappings, ACCOUNTS)


async def test_the_mirror_tells_whose_write_it_saw_and_trusts_no_stamp_that_was_copied(
    steps: Steps, told: Told
) -> None:
    await steps.add(Account(id="ours", email="a@example.org"))
    await steps.add(Account(id="gone"))
    await steps.delete("gone")
    await steps.foreign({"id": "foreign", "Email": "f@example.org"})
    await steps.add(Account(id="copied"))
    copied = await steps.current("copied")
    assert copied is not None
    await steps.foreign({"id": "copied", "Email": "other", ENVELOPE: copied[ENVELOPE]})
    await Processor(steps.engine, steps.store, steps.mappings, notices=Notices(told)).run_once()
    [ours] = told.of("ours")
    assert (ours.stamp, ours.deleted) == (Stamp(2, 1), False)
    assert ours.content is not None
    assert (ours.content["Email"], ENVELOPE in ours.content) == ("a@example.org", False)
    [gone] = told.of("gone")
    assert (gone.stamp, gone.deleted, gone.content) == (Stamp(2, 2), True, None)
    for id_ in ("foreign", "copied"):
        [one] = told.of(id_)
        assert (one.stamp, one.deleted) == (None, False)
        assert one.content is not None
    assert len(told.changes) == 4  # nor watermarks


async def test_an_echo_of_the_relay_is_not_told_a_second_time(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, told: Told
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")
    await open_relay(settings, mappings, engine, cosmos).drain()
    await cosmos.container(ACCOUNTS).upsert_item({"id": "rogue"})
    await Processor(engine, cosmos, mappings, notices=Notices(told)).run_once()
    assert told.changes == []


@pytest.mark.parametrize("broken", ["hangs", "raises"])
async def test_a_cache_that_does_not_answer_holds_up_no_mirror(steps: Steps, broken: str) -> None:
    await steps.foreign({"id": "a"})
    notices = Notices(Told(broken=broken), within_s=0.05)
    async with asyncio.timeout(5):
        await Processor(steps.engine, steps.store, steps.mappings, notices=notices).run_once()
    assert (await steps.held("a")).live_row is not None
    assert notices.missed == 1


async def test_a_hard_delete_is_told_as_soon_as_anybody_sees_it(steps: Steps, settings: Settings, told: Told) -> None:
    notices = Notices(told)
    container = steps.store.container(ACCOUNTS)
    [feed_range] = await feed_ranges(container)
    now = [page async for page in all_version_pages(container, feed_range, None, 100)][-1].continuation
    await mirrored(steps, "a", "b")
    await hard_delete(steps, "a")
    shown = [item async for page in all_version_pages(container, feed_range, now, 100) for item in page.documents]
    deletes = ObservedDeletes(
        steps.engine, CosmosDocuments(steps.store, steps.mappings), steps.mappings, notices=notices
    )
    await deletes.apply("Accounts", shown, await steps.phase())
    assert [(change.identity, change.stamp, change.deleted) for change in told.changes] == [(account("a"), None, False)]
    told.changes.clear()

    await hard_delete(steps, "b")
    parts = steps.engine, steps.store, steps.mappings, hasty(settings)
    await Reconcile(*parts, notices=notices).run(containers=["Accounts"])
    assert {(change.identity, change.stamp, change.deleted) for change in told.changes} == {(account("b"), None, False)}


async def test_what_is_repaired_is_told(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, settings: Settings, told: Told
) -> None:
    both = Compared(engine, cosmos, mappings, ACCOUNTS, settings=settings)
    await both.in_cosmos("same", "edited")
    await both.replaced("edited", DisplayName="Newer")
    found = (await both.validate(deep=True)).differences
    parts = engine, cosmos, mappings, settings
    await repair(*parts, Publisher(*parts), found, dry_run=True, notices=Notices(told))
    assert told.changes == []
    await repair(*parts, Publisher(*parts), found, dry_run=False, settle_s=0, notices=Notices(told))
    assert [change.identity for change in told.changes] == [account("edited")]
