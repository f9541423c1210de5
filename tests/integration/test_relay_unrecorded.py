"""G8: what failed is parked or dead before its cursor moves on, also where Postgres fails at that very moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from core.cosmos.publish import Outcome, Publish, Refused
from core.errors import StoreUnavailableError
from outbox import cursor, place
from outbox.relay import Relay
from tests.integration.relay_steps import MemorySink, letters, make_primary, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mappings import Mappings
    from core.settings import Settings


class Refusing(MemorySink):
    """Takes nothing whose id says that it is bad."""

    def _take(self, item: Publish) -> Outcome:
        return Refused(400, "bad") if item.identity.id.startswith("bad") else super()._take(item)


async def test_a_failure_that_could_not_be_recorded_is_not_forgotten_by_the_next_pass(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('bad'), ('good')")
    failing = [True]

    async def advance(connection: Any, group: Any, to: Any) -> bool:
        if failing.pop() if failing else False:
            msg = "Postgres is gone for a moment"
            raise StoreUnavailableError(msg)
        return await cursor.advance(connection, group, to)

    monkeypatch.setattr(place, "advance", advance)
    relay = Relay(settings.model_copy(update={"relay_attempts": 1}), mappings, engine, Refusing())
    with pytest.raises(StoreUnavailableError):
        await relay.run_once()
    await relay.run_once()
    await relay.run_once()
    assert [id_ for _, _, id_, _, _ in await letters(engine)] == ["bad"]
