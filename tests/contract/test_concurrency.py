"""Optimistic concurrency: of two who read the same state, the second to write is told, and nothing is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from core.domain.game_session import GameSession
from core.domain.pending_signup import PendingSignup
from core.entity import loaded
from core.errors import ConcurrencyError
from tests.contract.stores import CachedDb, commit_all, in_unit, save

if TYPE_CHECKING:
    from core.repository import UnitOfWork
    from tests.contract.stores import Db


async def _read(db: Db) -> GameSession:
    async with db.unit_of_work() as work:
        found = await work[GameSession].get_by_id("s", partition_key="a")
        assert found is not None
        return found


async def _write(db: Db, operation: str, session: GameSession) -> None:
    await commit_all(db, (operation, session))


@pytest.mark.parametrize("first", ["update", "delete"])
@pytest.mark.parametrize("second", ["update", "delete"])
async def test_the_second_of_two_writers_gets_a_concurrency_error(db: Db, first: str, second: str) -> None:
    await save(db, GameSession(id="s", account_id="a"))
    one, two = await _read(db), await _read(db)
    one.current_scene_id, two.current_scene_id = "one", "two"
    await _write(db, first, one)
    before = loaded(two)
    with pytest.raises(ConcurrencyError):
        await _write(db, second, two)
    assert loaded(two) == before
    with pytest.raises(ConcurrencyError):
        await _write(db, second, two)  # and again, until it reads again
    async with db.unit_of_work() as work:
        left = [session.current_scene_id for session in await work[GameSession].list()]
    assert left == ([] if first == "delete" else ["one"])


@pytest.mark.parametrize("second", ["update", "delete"])
async def test_a_state_from_before_a_delete_does_not_touch_what_was_added_after_it(db: Db, second: str) -> None:
    await save(db, GameSession(id="s", account_id="a", current_scene_id="old"))
    stale = await _read(db)
    await _write(db, "delete", await _read(db))
    await save(db, GameSession(id="s", account_id="a", current_scene_id="new"))
    with pytest.raises(ConcurrencyError):
        await _write(db, second, stale)
    assert (await _read(db)).current_scene_id == "new"


async def test_who_reads_again_after_a_conflict_writes(db: Db) -> None:
    await save(db, GameSession(id="s", account_id="a"))
    one, two = await _read(db), await _read(db)
    await _write(db, "update", one)
    with pytest.raises(ConcurrencyError):
        await _write(db, "update", two)
    two = await _read(db)
    two.current_scene_id = "two"
    await _write(db, "update", two)
    assert (await _read(db)).current_scene_id == "two"


async def test_an_entity_added_in_a_failed_unit_is_still_new(db: Db) -> None:
    await save(db, GameSession(id="s", account_id="a"))
    stale = await _read(db)
    await _write(db, "update", await _read(db))
    new = GameSession(id="new", account_id="a")
    with pytest.raises(ConcurrencyError):
        await commit_all(db, ("add", new), ("update", stale))
    assert loaded(new) is None
    await save(db, new)


async def test_no_increment_is_lost_among_concurrent_writers_who_retry(db: Db) -> None:
    await save(db, PendingSignup(id="s", email="a@x"))

    async def increment(work: UnitOfWork) -> None:
        signup = await work[PendingSignup].get_by_id("s", partition_key="a@x")
        assert signup is not None
        signup.failed_attempts += 1
        await work[PendingSignup].update(signup)

    async def persist() -> int:
        for conflicts in range(100):
            try:
                await in_unit(db, increment)
            except ConcurrencyError:
                continue
            return conflicts
        raise AssertionError

    conflicts = await asyncio.gather(*(persist() for _ in range(8)))
    async with db.unit_of_work() as work:
        signup = await work[PendingSignup].get_by_id("s")
        assert signup is not None
        assert signup.failed_attempts == 8
        state = loaded(signup)
        assert state is not None
        assert state.stamp.version == 9
    # Through a cache they may come one by one: each waits for the load of the one before.
    assert sum(conflicts) > 0 or isinstance(db, CachedDb), "nobody met anybody: this proves nothing"
