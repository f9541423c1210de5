"""The way back from postgres_only: what changed is sent, what has no row is tombstoned, and the flip misses nothing."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from azure.cosmos.exceptions import CosmosHttpResponseError

from core.domain.mappings import ACCOUNTS
from core.entity import Entity
from core.envelope import is_deleted
from core.errors import ConflictError
from core.identity import Identity
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.migration import catch_up_round
from core.migration.catch_up import send_changes, send_once
from core.phases import Phase
from core.postgres import capture
from core.postgres.phases import open_phase, read_phase
from outbox.current_state import load
from outbox.log_hold import LogHold
from outbox.partitions import KEEP_PARTITIONS
from outbox.publisher import Publisher
from outbox.relay import Relay, open_relay
from tests.integration.log_steps import SIZE, begin_small, count, pass_all, states, upkeep
from tests.integration.mirror_steps import Steps
from tests.integration.relay_steps import MemorySink, connect, differences, falls_silent, letters, make_primary, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.migration.catch_up import Hold
    from core.migration.catch_up_round import Sent
    from core.phases import PhaseRow
    from core.settings import Settings


class Numbered(Entity):
    """Its partition key lives in an integer column."""

    tenant: Any


INSERT = "INSERT INTO accounts (id, email) VALUES ('{}', 'old')"
LATER = "INSERT INTO pending_signups (id, email) VALUES ('s', 'e')"
"""A later transaction that ends earlier: a snapshot then lists the ones in progress."""


@pytest.fixture
def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    return Steps(engine, cosmos, mappings, ACCOUNTS)


def account(id_: str) -> Identity:
    return ACCOUNTS.identity_of(id_, id_)


async def sent(steps: Steps, settings: Settings) -> Sent:
    publisher = Publisher(steps.engine, steps.store, steps.mappings, settings)
    return await send_changes(steps.engine, steps.store, steps.mappings, publisher)


async def reopened(engine: AsyncEngine, hold: Hold) -> PhaseRow:
    """Step back to phase 2, the cursors set back to the hold in the same transaction."""

    async def meanwhile(connection: Any, row: PhaseRow) -> None:
        await LogHold(engine).rewind(connection, hold, row)

    return await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test", meanwhile=meanwhile)


async def in_both(steps: Steps, settings: Settings, *ids: str) -> None:
    """Let accounts be in both stores, and Postgres go on alone."""
    await make_primary(steps.engine)
    await run(steps.engine, *(INSERT.format(id_) for id_ in ids))
    await open_relay(settings, steps.mappings, steps.engine, steps.store).drain()
    await make_primary(steps.engine, Phase.POSTGRES_ONLY)


async def test_what_changed_is_sent_and_what_has_no_row_gets_a_tombstone_and_nothing_else_is_touched(
    steps: Steps, settings: Settings
) -> None:
    await in_both(steps, settings, "same", "changed", "deleted", "lost", "forgotten")
    untouched = await steps.current("same")
    assert untouched is not None
    await run(
        steps.engine,
        INSERT.format("new"),
        "UPDATE accounts SET email = 'new' WHERE id = 'changed'",
        "DELETE FROM accounts WHERE id IN ('deleted', 'forgotten')",
        "DELETE FROM crossfeed.tombstone WHERE id = 'forgotten'",
    )
    await steps.store.container(ACCOUNTS).delete_item("lost", "lost")
    await steps.foreign({"id": "foreign", "email": "theirs"})
    done = await sent(steps, settings)
    assert (done.rounds, done.sent, done.tombstoned, done.young, done.refused) == (2, 5, 2, 0, {})
    known = [account(id_) for id_ in ("same", "changed", "deleted", "lost", "forgotten", "new", "foreign")]
    assert await differences(steps.engine, steps.store, ACCOUNTS, known) == []
    document = await steps.current("same")
    assert document is not None
    assert document["_etag"] == untouched["_etag"]
    for gone in ("deleted", "forgotten", "foreign"):
        document = await steps.current(gone)
        assert document is not None
        assert is_deleted(document)
    assert [letter[:3] for letter in await letters(steps.engine)] == [("to_postgres", "rogue_write", "foreign")]
    assert (await sent(steps, settings)).sent == 0


async def test_what_cosmos_never_had_gets_its_tombstone_too_for_a_relay_that_slept_may_still_create_it(
    steps: Steps, settings: Settings
) -> None:
    await make_primary(steps.engine)
    await run(steps.engine, INSERT.format("brief"))
    async with steps.engine.connect() as connection:
        slept = await load(connection, steps.mappings, [account("brief")], await read_phase(connection), 3600)
    await make_primary(steps.engine, Phase.POSTGRES_ONLY)
    await run(steps.engine, "DELETE FROM accounts")
    hold = await LogHold(steps.engine).take()
    assert (await sent(steps, settings)).sent == 0
    await reopened(steps.engine, hold)
    await make_primary(steps.engine, Phase.DUAL_WRITE_COSMOS_READ)
    with pytest.raises(CosmosHttpResponseError):
        await steps.store.container(ACCOUNTS).create_item(slept.publish[0].document)
    document = await steps.current("brief")
    assert document is not None
    assert is_deleted(document)


async def test_writers_who_go_on_do_not_keep_it_from_ending(steps: Steps, settings: Settings) -> None:
    await in_both(steps, settings, "a", "b")
    await run(steps.engine, "UPDATE accounts SET email = 'new'")
    publisher = Publisher(steps.engine, steps.store, steps.mappings, settings)
    first = await send_once(steps.engine, steps.store, steps.mappings, publisher)
    assert (first.rounds, first.sent) == (1, 2)
    await run(steps.engine, "UPDATE accounts SET email = 'newer' WHERE id = 'a'")
    rest = await send_changes(steps.engine, steps.store, steps.mappings, publisher, since=first.begun)
    assert (rest.rounds, rest.sent, rest.young) == (1, 1, 1)


async def test_it_is_refused_in_every_other_phase(steps: Steps, settings: Settings) -> None:
    await make_primary(steps.engine)
    with pytest.raises(ConflictError, match="nothing to catch up with"):
        await sent(steps, settings)


async def test_a_write_between_the_comparison_and_the_flip_is_sent_although_the_relays_had_passed_it(
    steps: Steps, settings: Settings
) -> None:
    await in_both(steps, settings, "a", "b", "c")
    relay = open_relay(settings, steps.mappings, steps.engine, steps.store)
    async with await connect(settings) as late:
        await late.execute("BEGIN")
        await late.execute("UPDATE accounts SET email = 'late' WHERE id = 'b'")
        await run(steps.engine, LATER)
        hold = await LogHold(steps.engine).take()
        assert (await sent(steps, settings)).sent == 1
        await run(steps.engine, "UPDATE accounts SET email = 'new' WHERE id = 'a'")
        await late.execute("COMMIT")
    await relay.drain()  # its cursors are past both, and nothing was sent
    assert len(await differences(steps.engine, steps.store, ACCOUNTS, [account("a"), account("b")])) == 2
    await reopened(steps.engine, hold)
    await relay.drain()
    assert relay.stats.published == 2
    assert await differences(steps.engine, steps.store, ACCOUNTS, [account(id_) for id_ in "abc"]) == []


async def test_a_relay_that_slept_through_the_flip_cannot_move_the_cursor_past_what_is_to_be_sent(
    steps: Steps, settings: Settings
) -> None:
    await in_both(steps, settings, "a")
    zombie = Relay(settings, steps.mappings, steps.engine, MemorySink())
    await zombie.run_once()
    await falls_silent(steps.engine, zombie)
    hold = await LogHold(steps.engine).take()
    await run(steps.engine, "UPDATE accounts SET email = 'new'")
    await reopened(steps.engine, hold)
    with pytest.raises(Exception, match=r"another relay|lease"):
        await zombie.run_once()
    relay = open_relay(settings, steps.mappings, steps.engine, steps.store)
    await relay.drain()
    assert await differences(steps.engine, steps.store, ACCOUNTS, [account("a")]) == []


async def test_a_cursor_that_is_behind_the_hold_stays_where_it_is(steps: Steps, settings: Settings) -> None:
    await in_both(steps, settings, "a", "b")
    async with await connect(settings) as late:  # what the cursors have in progress, the hold has not
        await late.execute("BEGIN")
        await late.execute("UPDATE accounts SET email = 'late' WHERE id = 'a'")
        await run(steps.engine, LATER)
        await open_relay(settings, steps.mappings, steps.engine, steps.store).drain()
        await late.execute("COMMIT")
    await run(steps.engine, "UPDATE accounts SET email = 'new' WHERE id = 'b'")  # and this no relay has passed
    await reopened(steps.engine, await LogHold(steps.engine).take())
    relay = open_relay(settings, steps.mappings, steps.engine, steps.store)
    await relay.drain()
    assert relay.stats.published == 2
    assert await differences(steps.engine, steps.store, ACCOUNTS, [account("a"), account("b")]) == []


async def test_a_hold_that_has_run_out_or_is_of_another_epoch_rolls_the_flip_back(
    steps: Steps, settings: Settings
) -> None:
    await in_both(steps, settings, "a")
    brief = await LogHold(steps.engine, hold_s=0).take()
    await upkeep(steps.engine, settings)
    with pytest.raises(ConflictError, match="not held any more"):
        await LogHold(steps.engine).renew(brief)
    with pytest.raises(ConflictError, match="not held any more"):
        await reopened(steps.engine, brief)
    assert (await steps.phase()).phase is Phase.POSTGRES_ONLY
    hold = await LogHold(steps.engine).take()
    await make_primary(steps.engine)
    await make_primary(steps.engine, Phase.POSTGRES_ONLY)
    with pytest.raises(ConflictError, match="another step was made meanwhile"):
        await reopened(steps.engine, hold)
    assert (await steps.phase()).phase is Phase.POSTGRES_ONLY


async def test_a_hold_is_not_taken_while_somebody_looks_what_may_be_dropped(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(KEEP_PARTITIONS)
        taking = asyncio.ensure_future(LogHold(engine).take())
        await asyncio.sleep(0.1)
        assert not taking.done()
    await LogHold(engine).release(await taking)


async def test_the_log_keeps_what_a_hold_does_not_know_until_it_is_let_go(
    engine: AsyncEngine, settings: Settings
) -> None:
    await make_primary(engine, Phase.POSTGRES_ONLY)
    await begin_small(engine)
    hold = await LogHold(engine).take()
    await run(engine, states(SIZE + 10))
    await pass_all(engine)
    assert (await upkeep(engine, settings)).is_held
    assert await count(engine, "crossfeed.outbox") == SIZE + 10
    await LogHold(engine).release(hold)
    assert not (await upkeep(engine, settings)).is_held
    assert await count(engine, "crossfeed.outbox") < SIZE


async def test_what_cosmos_refuses_is_named_and_a_difference_that_stays_ends_the_step(
    steps: Steps, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await in_both(steps, settings, "a")
    await run(steps.engine, INSERT.format("x/y"), "UPDATE accounts SET email = 'new' WHERE id = 'a'")
    done = await sent(steps, settings)
    assert [identity.id for identity in done.refused] == ["x/y"]
    assert json.loads(json.dumps(done.facts()))["refused"].keys() == {str(Identity("Account", '["x/y"]', "x/y"))}
    await run(steps.engine, "UPDATE accounts SET email = 'newer' WHERE id = 'a'")

    async def nothing(*_: Any) -> dict[Identity, str]:
        return {}

    monkeypatch.setattr(catch_up_round, "send", nothing)
    monkeypatch.setattr(catch_up_round, "heal", nothing)
    with pytest.raises(ConflictError, match="still differs, though nobody changed it meanwhile: Account"):
        await sent(steps, settings)


async def test_a_document_whose_key_no_row_can_have_holds_up_nothing(steps: Steps, settings: Settings) -> None:
    tenant = sa.Column("tenant", sa.Integer, primary_key=True, autoincrement=False)
    table = sa.Table("numbered", sa.MetaData(), tenant, sa.Column("id", sa.Text, primary_key=True))
    numbered = EntityMapping(Numbered, table=table, container="Numbered", partition_key="/tenant")
    async with steps.engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
        await connection.run_sync(capture.install, numbered)
    await make_primary(steps.engine, Phase.POSTGRES_ONLY)
    only = Mappings([numbered])
    await steps.store.provision(only)
    for key in ("text", 7):
        await steps.store.container(numbered).upsert_item({"id": "x", "tenant": key})
    done = await send_changes(steps.engine, steps.store, only, Publisher(steps.engine, steps.store, only, settings))
    assert (done.tombstoned, done.sent) == (1, 1)
    assert [str(identity) for identity in done.refused] == ["""Numbered ["text"] 'x'"""]
