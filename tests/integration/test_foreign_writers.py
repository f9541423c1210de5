"""Foreign writers beside ours: Postgres follows them while Cosmos DB is primary, and overrules them while it is."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from core.content import content_hash
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.domain.game_session import GameSession
from core.domain.mappings import GAME_SESSIONS
from core.envelope import Ours, author_of
from core.phases import Phase
from core.postgres.unit_of_work import PostgresUnitOfWork
from outbox.relay import open_relay
from tests.integration.foreign_steps import (
    LegacyApplication,
    documents,
    kept,
    legacy_application,
    rows,
    same,
    unresolved,
)
from tests.integration.mirror_steps import Steps
from tests.integration.reconcile_steps import passed
from tests.integration.relay_steps import letters
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings
    from outbox.relay import Relay
    from tests.integration.foreign_steps import Key, Sessions

FOREIGN = ("save", "change", "put_back", "delete", "move")
OURS = ("ours_add", "ours_change", "ours_delete")
OPERATION = st.tuples(st.sampled_from([*FOREIGN, *OURS, "follow", "again"]), st.integers(0, 3))
FEW, MANY = (st.lists(OPERATION, min_size=3, max_size=size) for size in (10, 40))
Operations = list[tuple[str, int]]
EVERYTHING: Operations = [
    ("save", 0), ("save", 1), ("ours_add", 2), ("follow", 0), ("change", 0), ("change", 2), ("move", 1), ("delete", 0),
    ("follow", 0), ("save", 0), ("put_back", 2), ("ours_change", 2), ("again", 0), ("delete", 2), ("ours_add", 1),
]  # fmt: skip


@pytest.fixture
async def legacy(settings: Settings, cosmos: CosmosStore) -> AsyncIterator[LegacyApplication]:
    assert cosmos.database == settings.cosmos_database
    async with legacy_application(settings) as application:
        yield application


@pytest.fixture
def relay(settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Relay:
    return open_relay(settings, mappings, engine, cosmos)


@pytest.fixture
def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    return Steps(engine, cosmos, mappings, GAME_SESSIONS)


async def one_write(work: Any, name: str, key: Key, serial: int) -> None:
    """Let one of our own processes write."""
    account, id_ = key
    async with work:
        sessions = work[GameSession]
        found = await sessions.get_by_id(id_, partition_key=account)
        if name == "ours_add" and found is None:
            await sessions.add(GameSession(id=id_, account_id=account, scene_count=serial))
        elif name == "ours_change" and found is not None:
            found.scene_count = serial
            await sessions.update(found)
        elif name == "ours_delete" and found is not None:
            await sessions.delete(found)
        await work.commit()


async def operate(steps: Steps, legacy: LegacyApplication, work: Any, name: str, key: Key) -> None:
    match name:
        case "move":
            account = key[0].replace("ann", "bob") if "ann" in key[0] else key[0].replace("bob", "ann")
            await legacy.move(key, account)
        case "follow":
            await steps.apply(await steps.watch())
        case "again":
            await steps.apply(steps.history[::-2])
        case _ if name in OURS:
            legacy.serial += 1
            await one_write(work, name, key, legacy.serial)
        case _:
            await getattr(legacy, name)(key)


async def begin(steps: Steps, phase: Phase) -> tuple[int, list[Key]]:
    """Return the epoch of this phase, and keys that nothing was ever at."""
    if (await steps.phase()).phase is not phase:
        await switch_phase(steps.engine, steps.store, steps.mappings, phase, who="test", why="test")
        await steps.watch()
    steps.history.clear()
    tag = uuid.uuid4().hex[:8]
    keys = [(f"{account}-{tag}", id_) for account in ("ann", "bob") for id_ in ("s1", "s2")]
    return (await steps.phase()).epoch, keys


async def follows(settings: Settings, steps: Steps, legacy: LegacyApplication, operations: Operations) -> None:
    epoch, keys = await begin(steps, Phase.DUAL_WRITE_COSMOS_READ)
    for name, which in operations:
        await operate(steps, legacy, CosmosUnitOfWork(steps.store, steps.mappings, epoch), name, keys[which])
    await steps.apply(await steps.watch())
    await passed(steps, settings, reconcile_max_removed_share=1.0)
    current = await documents(steps, keys)
    assert same(await rows(steps, keys), current)
    assert await letters(steps.engine) == []
    await steps.apply(steps.history)
    assert same(await rows(steps, keys), current)


async def heals(
    settings: Settings, steps: Steps, legacy: LegacyApplication, relay: Relay, operations: Operations
) -> None:
    _, keys = await begin(steps, Phase.DUAL_WRITE_POSTGRES_READ)
    ours: Sessions = {}
    for name, which in operations:
        await operate(steps, legacy, PostgresUnitOfWork(steps.engine, steps.mappings), name, keys[which])
        if name in OURS:
            ours = await rows(steps, keys)
        if name == "follow":
            await relay_all(relay)
    others = unresolved(await documents(steps, keys), ours, set()).values()
    rogue = [one for one in others if not isinstance(author_of(one), Ours)]
    for _ in range(2):  # what the first round publishes again is seen by the next
        await relay_all(relay)
        await steps.apply(await steps.watch())
        await passed(steps, settings)
    await relay_all(relay)
    assert same(await rows(steps, keys), ours), "a foreign write came into Postgres"
    letters = await kept(steps.engine)
    assert letters.issuperset(map(content_hash, rogue))
    found = await documents(steps, keys)
    assert found.keys() >= ours.keys()
    assert unresolved(found, ours, letters) == {}


async def relay_all(relay: Relay) -> None:
    while (await relay.run_once()).messages:
        pass


@example(operations=EVERYTHING)
@given(operations=FEW)
@examples(max_examples=3)
async def test_postgres_follows_whatever_is_written_while_cosmos_is_primary(
    settings: Settings, steps: Steps, legacy: LegacyApplication, operations: Operations
) -> None:
    await follows(settings, steps, legacy, operations)


@example(operations=EVERYTHING)
@given(operations=FEW)
@examples(max_examples=3)
async def test_postgres_heals_whatever_is_written_there_while_it_is_primary(
    settings: Settings, steps: Steps, legacy: LegacyApplication, relay: Relay, operations: Operations
) -> None:
    await heals(settings, steps, legacy, relay, operations)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@given(operations=MANY)
@examples(max_examples=60)
async def test_postgres_follows_many_histories(
    settings: Settings, steps: Steps, legacy: LegacyApplication, operations: Operations
) -> None:
    await follows(settings, steps, legacy, operations)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@given(operations=MANY)
@examples(max_examples=60)
async def test_postgres_heals_many_histories(
    settings: Settings, steps: Steps, legacy: LegacyApplication, relay: Relay, operations: Operations
) -> None:
    await heals(settings, steps, legacy, relay, operations)
