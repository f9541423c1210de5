"""Shadow reads: a sample of the reads is compared with the other store, which costs the reader nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from core import Crossfeed
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.domain.account import Account
from core.domain.mappings import ACCOUNTS
from core.identity import ANYWHERE
from core.migration.shadow import MOST, ShadowReads
from core.phases import Phase, PhaseRow, PhaseState
from core.postgres.phases import open_phase
from core.postgres.unit_of_work import PostgresUnitOfWork
from tests.integration.relay_steps import until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

PHASE = PhaseRow(Phase.DUAL_WRITE_POSTGRES_READ, 2, PhaseState.STEADY)


class Watched(ShadowReads):
    """Always draws the read, and notes how long it waited between its two looks."""

    def __init__(self, engine: AsyncEngine, mappings: Mappings, cosmos: CosmosStore) -> None:
        async def store() -> CosmosStore:
            return cosmos

        super().__init__(engine, mappings, store, share=1.0, lag_s=30.0, sleep=self._wait)
        self.waited: list[float] = []
        self.may_look_again = asyncio.Event()

    async def _wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        await self.may_look_again.wait()

    async def compare(self, id_: str) -> None:
        self.offer(ACCOUNTS, id_, ANYWHERE, PHASE)
        before = self.counts.compared + self.counts.failed
        await until(lambda: bool(self.waited) or self.counts.compared + self.counts.failed > before)


async def has_compared(db: Crossfeed, count: int) -> None:
    shadow = db.shadow
    assert shadow is not None
    await until(lambda: shadow.counts.compared == count)


async def put(unit: PostgresUnitOfWork | CosmosUnitOfWork, account: Account) -> None:
    async with unit as work:
        await work[Account].add(account)
        await work.commit()


@pytest.fixture
async def shadow(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Watched:
    """Phase 2; both stores hold `a` alike, and `b` with another e-mail each."""
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="tests", why="shadow")
    for id_, others in (("a", "a@x.org"), ("b", "other@x.org")):
        await put(PostgresUnitOfWork(engine, mappings), Account(id=id_, email=f"{id_}@x.org"))
        await put(CosmosUnitOfWork(cosmos, mappings, 1), Account(id=id_, email=others))
    return Watched(engine, mappings, cosmos)


async def test_what_is_alike_is_counted_and_so_is_what_neither_store_has(shadow: Watched) -> None:
    await shadow.compare("a")
    await shadow.compare("nowhere")
    assert (shadow.counts.compared, shadow.counts.mismatched, shadow.waited) == (2, 0, [])


async def test_what_differs_after_the_lag_window_too_is_a_mismatch_named_without_its_content(shadow: Watched) -> None:
    with capture_logs() as logs:
        await shadow.compare("b")
        assert (shadow.counts.mismatched, shadow.waited) == (0, [30.0])
        shadow.may_look_again.set()
        await until(lambda: shadow.counts.compared == 1)
    assert shadow.counts.mismatched == 1
    [said] = [entry for entry in logs if entry["event"] == "shadow.mismatched"]
    assert (said["entity"], said["document_id"], said["fields"]) == ("Account", "b", ["Email"])
    assert "x.org" not in str(said)


async def test_what_was_under_way_is_no_mismatch(
    shadow: Watched, engine: AsyncEngine, mappings: Mappings, cosmos: CosmosStore
) -> None:
    await put(PostgresUnitOfWork(engine, mappings), Account(id="c"))
    await shadow.compare("c")
    await put(CosmosUnitOfWork(cosmos, mappings, 1), Account(id="c"))
    shadow.may_look_again.set()
    await until(lambda: shadow.counts.compared == 1)
    assert shadow.counts.mismatched == 0


async def test_more_than_can_be_compared_is_dropped_and_what_is_under_way_ends_with_the_process(
    shadow: Watched,
) -> None:
    for _ in range(MOST + 3):
        shadow.offer(ACCOUNTS, "b", ANYWHERE, PHASE)
    assert shadow.counts.dropped == 3
    await until(lambda: bool(shadow.waited))
    await shadow.stop()
    assert shadow.counts.compared == 0


async def test_a_store_that_does_not_answer_fails_the_comparison_alone(
    shadow: Watched, engine: AsyncEngine, mappings: Mappings, settings: Settings
) -> None:
    away = settings.model_copy(update={"cosmos_endpoint": "http://127.0.0.1:9/", "shadow_read_share": 1.0})
    async with Crossfeed.open(away, mappings) as db:
        async with db.unit_of_work() as work:
            assert await work[Account].exists("a")
        assert db.shadow is not None
        await until(lambda: db.shadow is not None and db.shadow.counts.failed == 1)


@pytest.mark.parametrize("phase", [Phase.DUAL_WRITE_COSMOS_READ, Phase.DUAL_WRITE_POSTGRES_READ])
async def test_the_share_of_the_settings_decides_how_many_reads_are_compared(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, phase: Phase
) -> None:
    await open_phase(engine, phase, who="tests", why="shadow")
    for share, compared in ((0.0, 0), (1.0, 3)):
        sampling = settings.model_copy(update={"shadow_read_share": share})
        async with Crossfeed.open(sampling, mappings) as db:
            for _ in range(3):
                async with db.unit_of_work() as work:
                    assert await work[Account].get_by_id("nobody") is None
            await has_compared(db, compared)
