"""Events of an aggregate arrive once and in commit order, whichever store is primary, and across every switch."""

from __future__ import annotations

import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase as Stage
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from changefeed.mirror import Mirror
from changefeed.processor import Processor
from core.cosmos.client import open_cosmos
from core.cosmos.documents import CosmosDocuments
from core.cosmos.event_sink import EventSink, Unchanged, Written
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.domain.account import Account
from core.domain.mappings import ACCOUNTS
from core.envelope import Origin, is_deleted
from core.errors import OutcomeUnknownError
from core.events import carried_by
from core.local.cosmos.faults import Cut, Match, Operation, Rule
from core.mappings import Mappings
from core.phases import Phase
from core.postgres.phases import open_phase, read_phase
from core.postgres.unit_of_work import PostgresUnitOfWork
from outbox.relay import open_relay
from tests.integration.event_steps import Said, account, delivered, log_of_events
from tests.integration.mirror_steps import Steps
from tests.integration.relay_steps import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.local.cosmos.server import CosmosServer
    from core.phases import PhaseRow
    from core.settings import Settings

ONLY_ACCOUNTS = Mappings([ACCOUNTS])
SWITCH = {
    Phase.DUAL_WRITE_COSMOS_READ: Phase.DUAL_WRITE_POSTGRES_READ,
    Phase.DUAL_WRITE_POSTGRES_READ: Phase.DUAL_WRITE_COSMOS_READ,
}
WRITES = ["say", "say", "say with a write", "delete", "roll back", "lose the answer", "foreign"]
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(WRITES), st.integers(0, 1)),
        st.tuples(st.sampled_from(WRITES), st.integers(0, 1)),
        st.tuples(st.sampled_from(["mirror", "mirror crashes", "mirror all again"]), st.just(0)),
        st.tuples(st.sampled_from(["deliver", "resend and crash", "resend everything"]), st.just(0)),
        st.tuples(st.just("switch"), st.just(0)),
    ),
    min_size=6,
    max_size=14,
)


@pytest.fixture
def cosmos_server(own_cosmos_server: CosmosServer) -> CosmosServer:
    """Instead of the server that all tests share."""
    return own_cosmos_server


@pytest.fixture
async def cosmos(settings: Settings) -> AsyncIterator[CosmosStore]:
    async with open_cosmos(settings) as store:
        await store.provision(ONLY_ACCOUNTS)
        yield store


@dataclass
class World:
    """Both stores, what goes wrong at one of them, and what was said so far."""

    settings: Settings
    engine: AsyncEngine
    server: CosmosServer
    cosmos: CosmosStore
    resent_to: int = 0
    ids: list[str] = field(default_factory=list)
    said: dict[Identity, list[int]] = field(default_factory=lambda: defaultdict(list))
    serial: int = 0

    async def phase(self) -> PhaseRow:
        async with self.engine.connect() as connection:
            return await read_phase(connection)

    async def act(self, action: str, which: int) -> None:
        match action:
            case "mirror":
                await self.mirror()
            case "mirror crashes":
                await self.mirror_and_crash()
            case "mirror all again":
                await run(self.engine, "DELETE FROM crossfeed.feed_range")
                await self.mirror()
            case "deliver":
                await self.relay()
            case "resend and crash":
                sent = Match(operations=frozenset({Operation.CREATE, Operation.BATCH}))
                self.server.faults.add(Rule(do=Cut(moment="after"), on=sent, times=1))
                before = self.resent_to
                await self.resend()
                self.resent_to = before
                self.server.faults.clear()
            case "resend everything":
                self.resent_to = 0
                await self.resend()
            case "switch":
                await self.switch()
            case "foreign":
                await self.foreign(self.ids[which])
            case _:
                await self.write(action, account(self.ids[which]))

    async def write(self, action: str, of: Identity) -> None:
        """Write as an application does; remember what it was told to be done."""
        phase = await self.phase()
        on_cosmos = phase.primary is Origin.COSMOS
        self.serial += 1
        number = self.serial
        unit = CosmosUnitOfWork(self.cosmos, ONLY_ACCOUNTS, phase.epoch) if on_cosmos else None
        async with unit or PostgresUnitOfWork(self.engine, ONLY_ACCOUNTS) as work:
            found = await work[Account].get_by_id(of.id)
            if found is None:
                await work[Account].add(Account(id=of.id))
            elif action == "delete":
                await work[Account].delete(found)
            elif action == "say with a write":
                await work[Account].update(found.model_copy(update={"display_name": str(number)}))
            work.record(Said(number=number), of=of)
            if action == "roll back":
                return
            if action == "lose the answer" and on_cosmos:
                lost = Match(operations=frozenset({Operation.CREATE, Operation.REPLACE}))
                self.server.faults.add(Rule(do=Cut(moment="after"), on=lost, times=1))
                with pytest.raises(OutcomeUnknownError):
                    await work.commit()
                if number not in await self.carried(of):  # a create that a tombstone refused was not answered
                    return
            else:
                await work.commit()
        self.said[of].append(number)

    async def carried(self, identity: Identity) -> list[int]:
        document = await CosmosDocuments(self.cosmos, ONLY_ACCOUNTS).read(identity)
        return [event["data"]["number"] for event in carried_by(document or {})]

    async def foreign(self, id_: str) -> None:
        """Change a document as the legacy application does, which keeps what it does not know."""
        document = await CosmosDocuments(self.cosmos, ONLY_ACCOUNTS).read(account(id_))
        if (await self.phase()).primary is Origin.COSMOS and document is not None and not is_deleted(document):
            await self.cosmos.container(ACCOUNTS).upsert_item(document | {"DisplayName": f"foreign {self.serial}"})

    async def mirror(self) -> None:
        await Processor(self.engine, self.cosmos, ONLY_ACCOUNTS, page_size=2).run_once()

    async def mirror_and_crash(self) -> None:
        """Apply everything that is in the feed, and lose the transaction."""
        phase = await self.phase()
        documents = await Steps(self.engine, self.cosmos, ONLY_ACCOUNTS, ACCOUNTS).watch()
        mirror = Mirror(self.engine, CosmosDocuments(self.cosmos, ONLY_ACCOUNTS), ONLY_ACCOUNTS)
        with pytest.raises(ZeroDivisionError):
            await mirror.apply(ACCOUNTS.container, documents, phase, crash)

    async def relay(self) -> None:
        await open_relay(self.settings, ONLY_ACCOUNTS, self.engine, self.cosmos).drain()

    async def resend(self) -> None:
        """Send what the log holds as another relay would, one that knows another position."""
        messages = await log_of_events(self.engine, self.resent_to)
        sink = EventSink(self.cosmos, self.settings)
        for start in range(0, len(messages), 3):
            outcomes = await sink.write(messages[start : start + 3])
            assert all(isinstance(outcome, Written | Unchanged) for outcome in outcomes)
        self.resent_to = max([self.resent_to, *(message.seq for message in messages)])

    async def switch(self) -> None:
        """Move the primary when the way to the other store is empty, as a drained switch does."""
        phase = await self.phase()
        if phase.primary is Origin.COSMOS:
            await self.mirror()
        else:
            await self.relay()
        await open_phase(self.engine, SWITCH[phase.phase], who="test", why="test")


async def crash(connection: AsyncConnection) -> None:
    raise ZeroDivisionError


@pytest.fixture
async def world(settings: Settings, engine: AsyncEngine, own_cosmos_server: CosmosServer, cosmos: CosmosStore) -> World:
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    return World(settings, engine, own_cosmos_server, cosmos)


@given(actions=ACTIONS)
@examples(max_examples=6, phases=[Stage.explicit, Stage.reuse, Stage.generate])  # shrinking would take minutes
async def test_events_arrive_once_and_in_commit_order(world: World, actions: list[tuple[str, int]]) -> None:
    world.ids = [uuid.uuid4().hex for _ in range(2)]
    world.said.clear()
    start = world.resent_to
    for action, which in actions:
        await world.act(action, which)
    if (await world.phase()).primary is Origin.COSMOS:
        await world.mirror()
    await world.relay()
    world.resent_to = max(start, world.resent_to)
    for identity, said in world.said.items():
        assert await delivered(world.cosmos, identity) == said
