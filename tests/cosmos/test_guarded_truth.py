"""Whatever a guarded write meets, what it says of each document is true, and no document ever goes backwards."""

from __future__ import annotations

import asyncio
import random
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any, assert_never

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.cosmos.failures import DRIVER_ERRORS
from core.cosmos.guarded import (
    GuardedWriter,
    Outcome,
    Postponed,
    Publish,
    Refused,
    Superseded,
    Unchanged,
    Written,
)
from core.envelope import Ours, author_of
from core.errors import StoreUnavailableError
from core.identity import Identity
from core.local.cosmos.faults import READS, WRITES, Cut, Down, Hold, Match, Refuse, Rule
from core.stamp import Stamp
from tests.cosmos.example import LINES, MAPPINGS
from tests.cosmos.guarded_steps import publish
from tests.integration.fault_steps import all_versions, keep_versions

if TYPE_CHECKING:
    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.local.cosmos.server import CosmosServer

ACCOUNTS, IDS = 3, 4
STATES = st.lists(
    st.tuples(
        st.integers(0, ACCOUNTS - 1),
        st.integers(0, IDS - 1),
        st.builds(Stamp, st.integers(1, 2), st.integers(1, 4)),
        st.sampled_from(["alive", "alive", "gone", "poison"]),
    ),
    min_size=1,
    max_size=40,
)
_ACTIONS = [
    *(Refuse(status=status) for status in (403, 408, 449, 500, 503)),
    Refuse(status=429, retry_after_ms=20),
    *(Refuse(status=status, moment="after") for status in (408, 500, 503)),
    *(Cut(moment=moment) for moment in ("before", "after", "middle")),
    *(Hold(client=client, seconds=seconds) for client in ("cut", "timeout", "waits") for seconds in (0.03, 0.2)),
]
FAULTS = st.lists(
    st.builds(
        lambda do, aim, of, chance: Rule(do=do, on=Match(operations=aim, partition_key=of), probability=chance),
        st.sampled_from([*_ACTIONS, Down()]),
        st.sampled_from([WRITES, WRITES, READS, WRITES | READS]),
        st.sampled_from([None, None, ("of the first account",)]),
        st.sampled_from([0.1, 0.4, 1.0]),
    ),
    max_size=3,
)


class Primary:
    """What Postgres holds: of every document the newest state; it keeps what it never took."""

    def __init__(self, newest: dict[Identity, Stamp]) -> None:
        self.newest = newest
        self.kept: list[tuple[Identity, Document]] = []

    async def untaken(self, item: Publish, found: Document) -> Stamp | None:
        if item.stamp < self.newest[item.identity]:
            return self.newest[item.identity]
        self.kept.append((item.identity, found))
        return None

    async def confirm(self, item: Publish) -> None:
        pass


class World:
    """Some lines of a run, in few logical partitions, and what was said of their states."""

    def __init__(self, server: CosmosServer, store: CosmosStore, states: list[tuple[int, int, Stamp, str]]) -> None:
        self.server, self.store = server, store
        self.run = uuid.uuid4().hex[:8]
        # A stamp names one state: the first of several drawn with the same one counts.
        drawn = {(account, id_, stamp): kind for account, id_, stamp, kind in reversed(states)}
        self.poison: set[tuple[Identity, Stamp]] = set()
        self.items = [self._item(*key, kind) for key, kind in drawn.items()]
        newest: dict[Identity, Stamp] = {}
        for item in self.items:
            newest[item.identity] = max(newest.get(item.identity, item.stamp), item.stamp)
        self.primary = Primary(newest)
        self.said: list[tuple[Publish, Outcome]] = []

    def _account(self, number: int) -> str:
        return f"{self.run}-{number}"

    def _item(self, account: int, id_: int, stamp: Stamp, kind: str) -> Publish:
        identity = Identity.of("Line", [self._account(account)], f"l{id_}")
        if kind == "gone":
            return publish(identity, stamp, None)
        if kind == "poison":
            self.poison.add((identity, stamp))
        code = "taken" if kind == "poison" else f"{id_} {stamp}"
        content = {"id": identity.id, "accountId": self._account(account), "Text": str(stamp), "Code": code}
        return publish(identity, stamp, content)

    async def take_the_code(self) -> None:
        for account in range(ACCOUNTS):
            holder = {"id": "holder", "accountId": self._account(account), "Text": "", "Code": "taken"}
            await self.store.container(LINES).create_item(holder)

    async def foreign(self, chance: random.Random) -> None:
        """Overwrite now and then, as somebody does who knows nothing of us."""
        for _ in range(chance.randint(0, 4)):
            account = self._account(chance.randrange(ACCOUNTS))
            id_ = f"l{chance.randrange(IDS)}"
            rogue = {"id": id_, "accountId": account, "Text": "rogue", "Code": f"rogue {id_}"}
            with suppress(*DRIVER_ERRORS):  # it meets the faults too, and does not care
                await self.store.container(LINES).upsert_item(rogue)
            await asyncio.sleep(chance.uniform(0, 0.02))

    async def work(self, writer: GuardedWriter, chance: random.Random) -> None:
        mine = [item for item in self.items for _ in range(chance.randint(1, 2))]
        chance.shuffle(mine)
        while mine:
            batch = [mine.pop() for _ in range(min(len(mine), chance.randint(1, 20)))]
            told: list[tuple[Publish, Outcome]] = []
            try:
                outcomes = await writer.write(batch, on_outcome=lambda *what, told=told: told.append(what))
            except StoreUnavailableError:
                self.said += told
                continue
            assert len(outcomes) == len(batch)
            assert sorted(map(repr, told)) == sorted(map(repr, zip(batch, outcomes, strict=True)))
            self.said += zip(batch, outcomes, strict=True)

    def check(self) -> None:
        everything = all_versions(self.server, self.store, LINES)
        versions = {identity: everything[identity] for identity in self.primary.newest}
        for identity, documents in versions.items():
            last: Stamp | None = None
            for author in map(author_of, documents):
                if isinstance(author, Ours):
                    assert last is None or author.stamp > last, f"{identity} went back from {last} to {author.stamp}"
                    last = author.stamp
                else:
                    last = None if last is None else Stamp(last.epoch, last.version - 1)  # the same may be put back
        for item, outcome in self.said:
            self._check(item, outcome, versions[item.identity])

    def _check(self, item: Publish, outcome: Outcome, versions: list[Any]) -> None:
        ours = {
            document["_etag"]: author.stamp for document in versions if isinstance(author := author_of(document), Ours)
        }
        is_poison = (item.identity, item.stamp) in self.poison
        match outcome:
            case Written(etag) | Unchanged(etag):
                assert ours[etag] == item.stamp
                assert not is_poison
            case Superseded(found):
                assert found > item.stamp
                assert found in ours.values() or found == self.primary.newest[item.identity]
            case Refused():
                assert is_poison
            case Postponed():
                pass
            case other:
                assert_never(other)


async def scenario(
    server: CosmosServer, store: CosmosStore, states: list[tuple[int, int, Stamp, str]], rules: list[Rule], seed: int
) -> None:
    world = World(server, store, states)
    chance = random.Random(seed)
    await world.take_the_code()
    keep_versions(server, store)
    writers = [GuardedWriter(store, MAPPINGS, world.primary, 4, patience_s=0.2) for _ in range(2)]
    server.faults.seed = seed
    for rule in rules:
        key = None if rule.on.partition_key is None else (f"{world.run}-0",)
        on = rule.on.model_copy(update={"partition_key": key})
        server.faults.add(rule.model_copy(update={"on": on}))
    try:
        async with asyncio.TaskGroup() as tasks:
            for writer in writers:
                tasks.create_task(world.work(writer, random.Random(chance.random())))
            tasks.create_task(world.foreign(chance))
    finally:
        server.faults.held.release_all()
        server.faults.clear()
    # The weather is over: a relay that comes anew, and knows nothing, finishes all of it.
    fresh = GuardedWriter(store, MAPPINGS, world.primary, 4)
    outcomes = await fresh.write(world.items)
    assert not any(isinstance(outcome, Postponed) for outcome in outcomes)
    world.said += zip(world.items, outcomes, strict=True)
    world.check()


@settings(max_examples=8)
@given(states=STATES, rules=FAULTS, seed=st.integers(0, 2**32))
async def test_what_is_said_of_each_document_is_true_and_none_goes_backwards(
    server: CosmosServer, store: CosmosStore, states: list[tuple[int, int, Stamp, str]], rules: list[Rule], seed: int
) -> None:
    await scenario(server, store, states, rules, seed)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@settings(max_examples=300)
@given(states=STATES, rules=FAULTS, seed=st.integers(0, 2**32))
async def test_what_is_said_of_each_document_is_true_and_none_goes_backwards_for_long(
    server: CosmosServer, store: CosmosStore, states: list[tuple[int, int, Stamp, str]], rules: list[Rule], seed: int
) -> None:
    await scenario(server, store, states, rules, seed)
