"""G2: no message is missed, whatever commits late or in whatever order, and wherever a relay is killed."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core.identity import Identity
from core.postgres.held import read_held
from outbox import log_reader, place
from outbox.cursor import Carries, advance, load_groups
from outbox.relay import Relay, open_relay
from tests.integration.relay_steps import MemorySink, connect, differences, falls_silent, make_primary, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

PAGE = 3
PUT = "INSERT INTO accounts (id) VALUES (%s) ON CONFLICT (id) DO UPDATE SET email = accounts.email || 'x'"
WHATS = ["put"] * 4 + ["delete", "savepoint", "rollback", "relay"] + ["commit", "crash"] * 3
STEPS = st.lists(st.tuples(st.sampled_from(WHATS), st.integers(0, 3), st.integers(0, 11)), min_size=15, max_size=60)
DEATHS = st.lists(st.integers(0, PAGE), min_size=1, max_size=8)


class KilledError(Exception):
    """The relay is gone, at this very instruction."""


@dataclass
class Writers:
    """Sessions that write a few keys each, in transactions that end in any order; nobody waits for a lock."""

    sessions: list[psycopg.AsyncConnection[Any]]
    owners: dict[int, int] = field(default_factory=dict)

    async def step(self, what: str, writer: int, key: int) -> None:
        session = self.sessions[writer]
        match what:
            case "put" | "delete" | "savepoint":
                if self.owners.setdefault(key, writer) != writer:
                    return
                if session.info.transaction_status is psycopg.pq.TransactionStatus.IDLE:
                    await session.execute("BEGIN")
                if what == "savepoint":
                    await session.execute("SAVEPOINT s")
                    await session.execute(PUT, [f"k{key}"])
                    await session.execute("ROLLBACK TO s" if key % 2 else "RELEASE s")
                else:
                    await session.execute(PUT if what == "put" else "DELETE FROM accounts WHERE id = %s", [f"k{key}"])
            case "commit" | "rollback":
                await session.execute(what)
                self.owners = {owned: owner for owned, owner in self.owners.items() if owner != writer}

    async def end(self) -> None:
        for writer in range(len(self.sessions)):
            await self.step("commit", writer, 0)


async def opened(settings_: Settings, count: int) -> Writers:
    sessions = [await connect(settings_) for _ in range(count)]
    for session in sessions:
        await session.execute("SET client_min_messages = error")  # COMMIT without BEGIN only warns
    return Writers(sessions)


async def closed(writers: Writers) -> None:
    for session in writers.sessions:
        await session.close()


@pytest.fixture(autouse=True)
def _short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page looks at six sequence numbers, so that a few messages are many windows."""
    monkeypatch.setattr(log_reader, "WINDOW_PAGES", 2)


async def follow(engine: AsyncEngine, pages: int = 1000) -> list[tuple[int, Identity]]:
    """Read what is committed, page by page, moving the cursor after each; at most so many pages."""
    found: list[tuple[int, Identity]] = []
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for _ in range(pages):
            [group] = [one for one in await load_groups(connection) if one.carries is Carries.STATES]
            batch = await log_reader.read_batch(connection, group, PAGE)
            seqs = [message.seq for message in batch.messages]
            assert seqs == sorted(seqs)[:PAGE]
            found += [(message.seq, message.identity) for message in batch.messages]
            assert await advance(connection, group, batch.next)
            if not batch.more:
                break
    return found


@given(steps=STEPS)
@hypothesis_settings(max_examples=12)
async def test_every_message_is_read_exactly_once_in_the_order_of_its_document(
    settings: Settings, engine: AsyncEngine, steps: list[tuple[str, int, int]]
) -> None:
    await messages_are_read(settings, engine, steps)


@pytest.mark.chaos
@pytest.mark.timeout(300)
@given(steps=STEPS)
@hypothesis_settings(max_examples=300)
async def test_every_message_is_read_exactly_once_whatever_a_great_many_transactions_do(
    settings: Settings, engine: AsyncEngine, steps: list[tuple[str, int, int]]
) -> None:
    await messages_are_read(settings, engine, steps)


async def messages_are_read(settings: Settings, engine: AsyncEngine, steps: list[tuple[str, int, int]]) -> None:
    """Take the steps; `relay` and `crash` read a page."""
    if not await _is_primary(engine):
        await make_primary(engine)
        await follow(engine)
    writers = await opened(settings, 4)
    before = await _committed(engine)
    read: list[tuple[int, Identity]] = []
    try:
        for what, writer, key in steps:
            await writers.step(what, writer, key)
            if what in {"relay", "crash"}:
                read += await follow(engine, pages=1)  # the rest of the delta later, when more has been committed
        await writers.end()
        read += await follow(engine)
    finally:
        await closed(writers)
    committed = {seq: identity for seq, identity in await _committed(engine) if (seq, identity) not in before}
    assert sorted(read) == sorted(committed.items())
    for identity in set(committed.values()):
        seqs = [seq for seq, of in read if of == identity]
        assert seqs == sorted(seqs)
    assert await follow(engine) == []


async def test_what_commits_between_two_pages_of_a_delta_comes_once_and_after_it(
    settings: Settings, engine: AsyncEngine
) -> None:
    await make_primary(engine)
    async with await connect(settings) as session, await connect(settings) as late:
        await late.execute("BEGIN")
        await late.execute(PUT, ["late"])  # has the lowest sequence number of all
        for number in range(5):
            await session.execute(PUT, [f"first{number}"])
        read = await follow(engine, pages=1)
        await late.execute("COMMIT")
        for number in range(5):
            await session.execute(PUT, [f"second{number}"])
        for _ in range(10):  # some windows are empty
            read += await follow(engine, pages=1)
    ids = [identity.id for _, identity in read]
    assert ids[:5] == [f"first{number}" for number in range(5)]
    assert ids[5:] == ["late", *(f"second{number}" for number in range(5))]


@given(steps=STEPS, deaths=DEATHS)
@hypothesis_settings(max_examples=10)
async def test_every_document_arrives_in_its_last_state_wherever_relays_are_killed(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, steps: list[tuple[str, int, int]], deaths: list[int]
) -> None:
    await relays_are_killed(settings, engine, mappings, steps, deaths)


@pytest.mark.chaos
@pytest.mark.timeout(300)
@given(steps=STEPS, deaths=DEATHS)
@hypothesis_settings(max_examples=150)
async def test_every_document_arrives_in_its_last_state_however_often_relays_are_killed(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, steps: list[tuple[str, int, int]], deaths: list[int]
) -> None:
    await relays_are_killed(settings, engine, mappings, steps, deaths)


async def relays_are_killed(
    settings: Settings, engine: AsyncEngine, mappings: Mappings, steps: list[tuple[str, int, int]], deaths: list[int]
) -> None:
    """Take the steps; at each `crash` the relay dies after the next of `deaths` writes."""
    if not await _is_primary(engine):
        await make_primary(engine)
    writers = await opened(settings, 4)
    small = settings.model_copy(update={"relay_page_size": PAGE, "relay_concurrency": 2})
    sink = _SHARED.setdefault(str(settings.cosmos_database), MemorySink())
    relay = Relay(small, mappings, engine, sink)
    try:
        for step, (what, writer, key) in enumerate(steps):
            await writers.step(what, writer, key)
            if what == "relay":
                await relay.run_once()
            elif what == "crash":
                await _killed(engine, relay, sink, deaths[step % len(deaths)])
                relay = Relay(small, mappings, engine, sink)
        await writers.end()
    finally:
        await closed(writers)
    await relay.drain()
    identities = sorted({identity for _, identity in await _committed(engine)})
    async with engine.connect() as connection:
        held = await read_held(connection, mappings.named("Account"), identities)
    assert {item.identity: item.stamp for item in held} == {
        identity: sink.states[identity].stamp for identity in identities
    }
    assert relay.stats.dead_lettered == relay.stats.absent == 0


async def test_a_transaction_held_open_while_5000_others_commit_is_neither_skipped_nor_waited_for(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await make_primary(engine)
    accounts = mappings.named("Account")
    relay = open_relay(settings, mappings, engine, cosmos)
    stop = asyncio.Event()
    running = asyncio.ensure_future(relay.run(stop))
    keys = [f"k{number}" for number in range(60)]
    early = [f"early{number}" for number in range(10)]

    async def commit(writer: int) -> None:
        async with await connect(settings) as session:  # a transaction each, without a round trip each
            put = PUT.replace("%s", f"'k' || number * 7919 % {len(keys)}")
            loop = f"FOR number IN {writer}..4999 BY 8 LOOP {put}; COMMIT; END LOOP"
            await session.execute(f"DO $$ BEGIN {loop}; END $$")

    async with await connect(settings) as held, await connect(settings) as prepared:
        await held.execute("BEGIN")
        await prepared.execute("BEGIN")
        for number, key in enumerate(early):
            await (held if number % 2 else prepared).execute(PUT, [key])
        await prepared.execute("PREPARE TRANSACTION 'test'")
        await asyncio.gather(*map(commit, range(8)))
        await until(lambda: relay.stats.messages >= 5000)
        assert relay.stats.messages == 5000
        assert await differences(engine, cosmos, accounts, _identities(mappings, keys)) == []
        await held.execute("COMMIT")
        await prepared.execute("COMMIT PREPARED 'test'")
        await until(lambda: relay.stats.messages >= 5010)
    assert await differences(engine, cosmos, accounts, _identities(mappings, [*keys, *early])) == []
    stop.set()
    await running
    assert relay.stats.messages == 5010
    assert (relay.stats.retries, relay.stats.dead_lettered, relay.stats.absent) == (0, 0, 0)


_SHARED: dict[str, MemorySink] = {}
"""One target per database: the examples of one test share theirs."""


def _identities(mappings: Mappings, ids: Sequence[str]) -> list[Identity]:
    return [mappings.named("Account").identity_of(id_, id_) for id_ in ids]


async def _killed(engine: AsyncEngine, relay: Relay, sink: MemorySink, after: int) -> None:
    """Run one pass that dies after this many writes (it may have fewer), or just before the cursor is moved."""
    left = after
    monkeypatch = pytest.MonkeyPatch()

    def die(_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError

    async def die_late(*_: Any) -> None:
        raise KilledError

    if after < PAGE:
        sink.before = die
    else:
        monkeypatch.setattr(place, "advance", die_late)
    with contextlib.suppress(KilledError):
        await relay.run_once()
    sink.before = None
    monkeypatch.undo()
    await falls_silent(engine, relay)


async def _is_primary(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        return bool((await connection.exec_driver_sql("SELECT phase = 2 FROM crossfeed.phase")).scalar_one())


async def _committed(engine: AsyncEngine) -> list[tuple[int, Identity]]:
    async with engine.connect() as connection:
        result = await connection.exec_driver_sql(
            "SELECT seq, entity, partition_key, id FROM crossfeed.outbox ORDER BY seq"
        )
        return [(seq, Identity(entity, key, id_)) for seq, entity, key, id_ in map(tuple, result)]
