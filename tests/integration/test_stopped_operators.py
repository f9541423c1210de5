"""A command that is stopped in the middle of its transaction, for a debugger say, does not stop everybody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cosmos.publish import Publish
from core.identity import Identity
from core.postgres.phases import GIVE_WAY
from core.stamp import Stamp
from outbox.quarantine import LetterQuarantine
from outbox.stats import RelayStats
from tests.integration.relay_steps import make_primary

if TYPE_CHECKING:
    import pytest
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.mappings import Mappings

WAITS = "SELECT setting::int FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'"


async def test_a_step_of_an_operator_that_is_stopped_lets_its_locks_go(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(GIVE_WAY)
        assert 0 < (await connection.exec_driver_sql(WAITS)).scalar_one() <= 10_000
    async with engine.begin() as connection:  # a transaction's, not a session's: PgBouncer gives sessions to others
        assert (await connection.exec_driver_sql(WAITS)).scalar_one() == 0


async def test_a_relay_that_is_stopped_while_it_writes_a_letter_lets_the_next_one_write_it(
    engine: AsyncEngine, mappings: Mappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = await make_primary(engine)
    seen: list[int] = []

    async def record(connection: AsyncConnection, _letter: object) -> bool:
        seen.append((await connection.exec_driver_sql(WAITS)).scalar_one())
        return True

    monkeypatch.setattr("outbox.quarantine.dead_letters.record", record)
    item = Publish(
        Identity("Account", '["a"]', "a"), Stamp(phase.epoch, 1), {"id": "a"}, deleted=False, loaded_in=phase.epoch
    )
    await LetterQuarantine(engine, mappings, RelayStats()).untaken(item, {"id": "a", "_etag": "e"})
    assert seen == [10_000]
