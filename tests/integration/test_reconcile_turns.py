"""A reconcile pass goes on where it was killed, never runs twice at once, and does small pieces for a timer."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from changefeed.reconcile_rows import doubt_rows, doubt_statement
from changefeed.reconcile_state import TurnLostError
from core.domain.mappings import ACCOUNTS, GAME_SESSIONS
from core.errors import ConflictError
from core.local.cosmos.faults.client import FaultsClient
from tests.chaos.fleet import environment_of
from tests.integration.mirror_steps import Steps, same
from tests.integration.reconcile_steps import AfterOnePiece, counts, hard_delete, legacy, mirrored, passed, reconcile
from tests.integration.relay_steps import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from changefeed.reconcile_state import Round
    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.progress import Progress
    from core.settings import Settings

CROSSFEED = (sys.executable, "-c", "from functions.cli import main; main()")
ALL = ("Accounts", "GameSessions", "PendingSignups", "UserProfiles")


@pytest.fixture
def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    return Steps(engine, cosmos, mappings, ACCOUNTS)


async def test_a_pass_that_is_interrupted_after_each_piece_reads_every_document_once(
    steps: Steps, settings: Settings
) -> None:
    await mirrored(steps, *[f"a{number}" for number in range(5)])
    await hard_delete(steps, "a1")
    for runs in count():  # each as another process
        one = reconcile(steps, settings, reconcile_page_size=2)
        report = await one.run(stop=AfterOnePiece(), containers=["Accounts"])
        if report.finished:
            assert runs > 8
            assert report.containers[0].counts == counts(documents=4, rows=5, doubted=1, removed=1)
            break


async def test_two_passes_are_never_at_it_at_once_and_one_that_slept_changes_nothing(
    steps: Steps, settings: Settings
) -> None:
    await mirrored(steps, "a", "b")
    await hard_delete(steps, "b")
    sleeper, other = reconcile(steps, settings), reconcile(steps, settings)
    advance = sleeper._pass.advance
    taken_over: list[Any] = []

    async def asleep(at: Round, report: Callable[[Progress], None], is_over: Callable[[], bool]) -> float:
        """Sleep through the lease just before the row is removed."""
        if at.step == "doubts" and at.place["looked"] and not taken_over:
            with pytest.raises(ConflictError, match="another reconcile pass is under way"):
                await other.run(containers=["Accounts"])
            assert not await other.step(1.0)
            await run(steps.engine, "UPDATE crossfeed.reconcile SET expires_at = '-infinity'")
            taken_over.append(await other.run(containers=["Accounts"]))
            await steps.foreign(legacy("b", DisplayName="again"))
            await steps.apply(steps.history)
        return await advance(at, report, is_over)

    sleeper._pass.advance = asleep  # type: ignore[method-assign]
    with pytest.raises(TurnLostError):
        await sleeper.run(containers=["Accounts"])
    assert taken_over[0].containers[0].counts == counts(documents=1, rows=2, doubted=1, removed=1)
    assert same(await steps.content("b"), await steps.current("b"))
    assert await passed(steps, settings) == counts(documents=2, rows=2)


async def test_a_timer_does_small_pieces_of_one_round_and_rests_until_the_next(
    steps: Steps, settings: Settings
) -> None:
    await mirrored(steps, "a", "b")
    await hard_delete(steps, "b")
    # The lag window is longer than a step: the step ends, and does not wait for it.
    timer = reconcile(steps, settings, reconcile_lag_s=0.3)
    moved = [await timer.step(0.2)]
    while moved[-1]:
        await asyncio.sleep(0.1)
        moved.append(await reconcile(steps, settings, reconcile_lag_s=0.3).step(0.2))
    assert len(moved) > 2
    assert await steps.content("b") is None
    await hard_delete(steps, "a")
    assert not await timer.step(1.0)
    assert await steps.content("a") is not None
    assert not await reconcile(steps, settings, reconcile_every_s=0.001).step(20.0)
    assert await steps.content("a") is None


@pytest.mark.parametrize("read", [0, 12])
async def test_a_split_in_the_middle_of_a_pass_loses_no_document(steps: Steps, settings: Settings, read: int) -> None:
    await mirrored(steps, *[f"a{number}" for number in range(20)])
    await hard_delete(steps, "a7")
    one = reconcile(steps, settings, reconcile_page_size=4)
    at = await one._turn.load()
    while at.step != "documents" or at.counts.documents < read:
        await one.run(stop=AfterOnePiece(), containers=["Accounts"])
        at = await one._turn.load()
    key = settings.cosmos_key
    assert key is not None
    async with FaultsClient(settings.require_cosmos(), key.get_secret_value()) as faults:
        await faults.split(settings.cosmos_database, "Accounts")
    while not (done := await one.run(stop=AfterOnePiece(), containers=["Accounts"])).finished:
        pass
    found = done.containers[0].counts
    assert (found.doubted, found.removed) == (1, 1)
    assert found.documents <= 19 + 4  # no page but the one at hand is read again


async def test_every_container_has_its_turn_and_every_row_is_looked_for_in_its_own_partition(
    steps: Steps, settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    sessions = Steps(engine, cosmos, mappings, GAME_SESSIONS)
    await mirrored(steps, "a")
    await sessions.foreign({"id": "s1", "accountId": "a"})
    await sessions.foreign({"id": "s1", "accountId": "b"})
    await sessions.apply(sessions.history)
    await cosmos.container(GAME_SESSIONS).delete_item("s1", "b")
    report = await reconcile(steps, settings).run()
    assert {one.container: one.counts.removed for one in report.containers} == {
        name: int(name == "GameSessions") for name in ALL
    }
    assert await sessions.content("s1", "a") is not None
    assert await sessions.content("s1", "b") is None


@pytest.mark.chaos
async def test_the_command_that_is_killed_goes_on_where_it_was(steps: Steps, settings: Settings) -> None:
    await mirrored(steps, *[f"a{number}" for number in range(40)])
    await hard_delete(steps, "a1")
    command = [*CROSSFEED, "reconcile", "--container", "Accounts", "--json"]
    slow = {
        "CROSSFEED_RECONCILE_PAGE_SIZE": "4",
        "CROSSFEED_RECONCILE_PAUSE_MS": "150",
        "CROSSFEED_RECONCILE_LAG_S": "0",
        "CROSSFEED_RECONCILE_LEASE_S": "1",
    }
    environment = {**environment_of(settings), **slow}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    async with asyncio.timeout(20):
        while b"documents of Accounts" not in await process.stderr.readline():
            pass
    process.send_signal(signal.SIGKILL)
    await process.communicate()
    async with steps.engine.connect() as connection:
        read = (
            await connection.exec_driver_sql("SELECT (counts ->> 'documents')::int FROM crossfeed.reconcile")
        ).scalar_one()
    assert 0 < read < 39
    await asyncio.sleep(1.0)  # its lease
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**environment, "CROSSFEED_RECONCILE_PAUSE_MS": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    [found] = json.loads(output)["containers"]
    # Read once, not from the start again: a page at most is read twice.
    assert (found["documents"], found["rows"], found["removed"]) == (39, 40, 1)


async def test_what_is_created_and_mirrored_while_the_pass_reads_is_not_even_doubted(
    steps: Steps, settings: Settings
) -> None:
    await mirrored(steps, "a")
    one = reconcile(steps, settings)
    while (await one._turn.load()).step != "tail":
        await one.run(stop=AfterOnePiece(), containers=["Accounts"])
    await mirrored(steps, "b")
    report = await one.run(containers=["Accounts"])
    assert report.containers[0].counts == counts(documents=2, rows=2)


async def test_a_backup_that_reads_the_tables_for_long_does_not_hold_a_pass_up(
    steps: Steps, settings: Settings
) -> None:
    await mirrored(steps, "a", "b")
    await hard_delete(steps, "b")
    async with steps.engine.connect() as backup:
        for what in ("seen", "doubt", "range"):
            await backup.exec_driver_sql(f"SELECT * FROM crossfeed.reconcile_{what}")
        assert (await passed(steps, settings)).removed == 1
    assert await steps.count("crossfeed.reconcile_seen") == 0


async def test_a_bucket_of_rows_is_compared_by_the_index_of_what_was_seen_also_without_statistics(
    steps: Steps,
) -> None:
    async with steps.engine.begin() as connection:
        await connection.exec_driver_sql("SELECT set_config('crossfeed.mirroring', 'on', true)")
        await connection.exec_driver_sql("""
            INSERT INTO crossfeed.reconcile_seen SELECT md5(n::text)::uuid FROM generate_series(1, 20000) AS n
        """)
        await connection.exec_driver_sql("""
            INSERT INTO accounts (id, crossfeed_epoch, crossfeed_version)
            SELECT 'a' || n, 1, 1 FROM generate_series(1, 4000) AS n
        """)
        assert await doubt_rows(connection, ACCOUNTS, "accounts", 0) == (4000, 4000)
        explain = f"EXPLAIN {doubt_statement(ACCOUNTS, 'accounts')}"
        plan = "\n".join((await connection.exec_driver_sql(explain, {"first": "(0,0)", "beyond": "(128,0)"})).scalars())
    assert "reconcile_seen_pkey" in plan, plan
    assert "Seq Scan on reconcile_seen" not in plan, plan


async def test_a_row_that_the_applications_own_tables_still_need_is_kept_and_holds_up_no_other(
    steps: Steps, settings: Settings
) -> None:
    await mirrored(steps, "a", "b", "c", "d")
    await run(
        steps.engine,
        "CREATE TABLE invoices (account_id text REFERENCES accounts (id))",
        "INSERT INTO invoices VALUES ('b')",
    )
    for id_ in "bcd":
        await hard_delete(steps, id_)
    assert await passed(steps, settings) == counts(documents=1, rows=4, doubted=3, removed=2, kept=1)
    assert [await steps.content(id_) is not None for id_ in "abcd"] == [True, True, False, False]
