"""Whatever is written, deleted and relayed between loading and sending: a publisher neither takes back nor revives."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase as Stage
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain.mappings import ACCOUNTS
from outbox.publisher import Publisher
from outbox.relay import open_relay
from tests.integration.relay_steps import Feed, differences, letters, make_primary, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.cosmos.publish import Outcome, Publish
    from core.mappings import Mappings
    from core.settings import Settings

KEYS = 3
STATEMENTS = {
    "insert": "INSERT INTO accounts (id) VALUES ('{}') ON CONFLICT DO NOTHING",
    "update": "UPDATE accounts SET email = email || 'x' WHERE id = '{}'",
    "delete": "DELETE FROM accounts WHERE id = '{}'",
}
EVENTS = st.tuples(st.sampled_from([*STATEMENTS, "relay"]), st.integers(0, KEYS - 1))
PLANS = st.lists(st.lists(EVENTS, max_size=4), min_size=1, max_size=4)


class Installation:
    """Postgres is the primary; a relay, and a publisher that is held up between loading and sending."""

    def __init__(self, engine: AsyncEngine, store: CosmosStore, mappings: Mappings, settings: Settings) -> None:
        self.engine = engine
        self.store = store
        self.relay = open_relay(settings, mappings, engine, store)
        self.publisher = Publisher(engine, store, mappings, settings)
        self.feed = Feed(store, ACCOUNTS)
        self.meanwhile: list[list[tuple[str, int]]] = []
        self.ids: list[str] = []
        self._write = self.publisher._sink.write
        self.publisher._sink.write = self._held_up  # type: ignore[method-assign]

    async def happen(self, events: Sequence[tuple[str, int]]) -> None:
        for what, key in events:
            if what == "relay":
                await self.relay.run_once()
            else:
                await run(self.engine, STATEMENTS[what].format(self.ids[key]))

    async def _held_up(self, items: Sequence[Publish], **how: Any) -> list[Outcome]:
        await self.happen(self.meanwhile.pop(0))
        return await self._write(items, **how)


@pytest.fixture
async def installation(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, settings: Settings
) -> Installation:
    await make_primary(engine)
    return Installation(engine, cosmos, mappings, settings)


@given(plan=PLANS)
@settings(max_examples=4, phases=[Stage.explicit, Stage.reuse, Stage.generate])
async def test_in_any_order_of_events_nothing_goes_back(installation: Installation, plan: list[Any]) -> None:
    await follow(installation, plan)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@given(plan=PLANS)
@settings(max_examples=100, phases=[Stage.explicit, Stage.reuse, Stage.generate])
async def test_in_many_orders_of_events_nothing_goes_back(installation: Installation, plan: list[Any]) -> None:
    await follow(installation, plan)


async def follow(world: Installation, plan: list[list[tuple[str, int]]]) -> None:
    prefix = uuid.uuid4().hex
    world.ids = [f"{prefix}-{key}" for key in range(KEYS)]
    known = [ACCOUNTS.identity_of(id_, id_) for id_ in world.ids]
    await world.happen([("insert", key) for key in range(KEYS)])
    world.meanwhile = list(plan)
    while world.meanwhile:
        await world.publisher.publish(known)
        await world.feed.read()
    await world.relay.drain()
    assert await differences(world.engine, world.store, ACCOUNTS, known) == []
    await world.feed.read()
    world.feed.check_order()
    assert await letters(world.engine) == []
