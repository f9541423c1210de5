"""Reconcile while Postgres is the primary: nothing is ever removed, what Cosmos DB lacks is published again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.content import content_of
from core.domain.mappings import ACCOUNTS
from core.envelope import Origin, stamped
from core.errors import ConflictError
from core.phases import Phase
from core.stamp import Stamp
from outbox.relay import open_relay
from tests.integration.mirror_steps import Steps, same
from tests.integration.reconcile_steps import AfterOnePiece, counts, hard_delete, legacy, mirrored, passed, reconcile
from tests.integration.relay_steps import letters, make_primary, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from changefeed.reconcile_state import Counts
    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings


@pytest.fixture
def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    return Steps(engine, cosmos, mappings, ACCOUNTS)


async def publish(steps: Steps, settings: Settings) -> None:
    await open_relay(settings, steps.mappings, steps.engine, steps.store).drain()


async def written(steps: Steps, settings: Settings, *ids: str) -> None:
    """Let Postgres be the primary, and its rows be published."""
    await make_primary(steps.engine)
    for id_ in ids:
        await run(steps.engine, f"INSERT INTO accounts (id, email) VALUES ('{id_}', '{id_}@example.org')")
    await publish(steps, settings)


async def test_a_document_that_somebody_deleted_is_published_again(steps: Steps, settings: Settings) -> None:
    await written(steps, settings, "a", "b")
    await hard_delete(steps, "b")
    assert await passed(steps, settings) == counts(documents=1, rows=2, doubted=1, healed=1)
    await publish(steps, settings)
    assert same(await steps.content("b"), await steps.current("b"))
    assert await passed(steps, settings) == counts(documents=2, rows=2)


async def test_what_the_relay_still_has_to_send_is_left_to_it(steps: Steps, settings: Settings) -> None:
    await written(steps, settings, "a")
    await run(steps.engine, "INSERT INTO accounts (id) VALUES ('waiting')", "UPDATE accounts SET role = 'Admin'")
    before = await steps.count("crossfeed.outbox")
    report = await passed(steps, settings)
    assert (report.doubted, report.kept, report.healed) == (2, 2, 0)
    assert await steps.count("crossfeed.outbox") == before
    await publish(steps, settings)
    assert await passed(steps, settings) == counts(documents=2, rows=2)


async def test_a_valid_but_old_document_that_stays_is_replaced(steps: Steps, settings: Settings) -> None:
    """As a relay that woke up after its slots had moved on could leave it, were the target's guard not there."""
    await written(steps, settings, "a", "b")
    old = await steps.current("a")
    assert old is not None
    await run(steps.engine, "UPDATE accounts SET role = 'Admin' WHERE id = 'a'")
    await publish(steps, settings)
    envelope = old["crossfeed"]
    stale = stamped(content_of(old), Stamp(envelope["epoch"], envelope["version"]), Origin.POSTGRES)
    await steps.foreign(stale)
    # The mirror takes it for an echo.
    assert (await steps.apply(steps.history[-1:])).quarantined == 0
    assert await passed(steps, settings) == counts(documents=2, rows=2, doubted=1, healed=1)
    await publish(steps, settings)
    current = await steps.current("a")
    assert current is not None
    assert current["Role"] == "Admin"
    assert await passed(steps, settings) == counts(documents=2, rows=2)


async def test_a_document_that_outlived_its_row_gets_its_tombstone_again(steps: Steps, settings: Settings) -> None:
    await written(steps, settings, "a", "b")
    old = await steps.current("a")
    assert old is not None
    await run(steps.engine, "DELETE FROM accounts WHERE id = 'a'")
    await publish(steps, settings)
    await steps.store.container(steps.mapping).upsert_item(
        stamped(content_of(old), Stamp(old["crossfeed"]["epoch"], 1), Origin.POSTGRES)
    )
    assert await passed(steps, settings) == counts(documents=2, rows=1, doubted=1, healed=1)
    await publish(steps, settings)
    current = await steps.current("a")
    assert current is not None
    assert current["crossfeed"]["deleted"] is True


async def test_a_foreign_write_that_the_mirror_has_lost_is_quarantined_and_undone(
    steps: Steps, settings: Settings
) -> None:
    await written(steps, settings, "a")
    await steps.foreign(legacy("a", DisplayName="rogue"))
    assert (await passed(steps, settings)).applied == 1
    assert [letter[:3] for letter in await letters(steps.engine)] == [("to_postgres", "rogue_write", "a")]
    await publish(steps, settings)
    assert same(await steps.content("a"), await steps.current("a"))


async def test_documents_from_before_the_switch_are_in_step_and_those_without_a_row_are_left_alone(
    steps: Steps, settings: Settings
) -> None:
    await mirrored(steps, "a", "b")
    await steps.foreign(legacy("not-yet-filled-back"))
    await make_primary(steps.engine)
    assert await passed(steps, settings) == counts(documents=3, orphans=1, rows=2)
    await run(steps.engine, "UPDATE accounts SET role = 'Admin' WHERE id = 'a'", "DELETE FROM crossfeed.outbox")
    # Its message is lost: the document stays what it was, and older than its row.
    assert await passed(steps, settings) == counts(documents=3, orphans=1, rows=2, doubted=1, healed=1)
    await publish(steps, settings)
    assert same(await steps.content("a"), await steps.current("a"))
    assert await steps.current("not-yet-filled-back") is not None


async def test_a_document_newer_than_its_row_is_shown_and_left_to_a_resync(steps: Steps, settings: Settings) -> None:
    await written(steps, settings, "a")
    document = await steps.current("a")
    assert document is not None
    await steps.foreign(stamped(content_of(document), Stamp(99, 7), Origin.POSTGRES))
    assert await passed(steps, settings) == counts(documents=1, ahead=1, rows=1)


@pytest.mark.parametrize("opened", ["postgres_only", "draining"])
async def test_there_is_nothing_to_reconcile_while_a_switch_drains_or_the_stores_are_apart(
    steps: Steps, settings: Settings, opened: str
) -> None:
    await make_primary(steps.engine)
    if opened == "postgres_only":
        await make_primary(steps.engine, Phase.POSTGRES_ONLY)
    else:
        await run(steps.engine, "UPDATE crossfeed.phase SET state = 'draining', switch_id = gen_random_uuid()")
    with pytest.raises(ConflictError, match=r"nothing to reconcile|switch is under way"):
        await passed(steps, settings)
    assert not await reconcile(steps, settings).step(1.0)


async def test_a_switch_in_the_middle_of_a_pass_begins_it_anew_under_the_new_rules(
    steps: Steps, settings: Settings
) -> None:
    await mirrored(steps, "a", "b")
    await hard_delete(steps, "b")
    report = await switched_before_it_is_settled(steps, settings, Phase.DUAL_WRITE_POSTGRES_READ)
    assert report == counts(documents=1, rows=2, doubted=1, healed=1)
    await publish(steps, settings)
    assert same(await steps.content("b"), await steps.current("b"))


async def test_a_row_whose_document_was_only_old_is_not_removed_by_whoever_switches_meanwhile(
    steps: Steps, settings: Settings
) -> None:
    await written(steps, settings, "a")
    await run(steps.engine, "UPDATE accounts SET role = 'Admin'", "DELETE FROM crossfeed.outbox")
    report = await switched_before_it_is_settled(steps, settings, Phase.DUAL_WRITE_COSMOS_READ)
    assert (report.removed, report.healed) == (0, 0)
    assert await steps.count("accounts") == 1


async def switched_before_it_is_settled(steps: Steps, settings: Settings, phase: Phase) -> Counts:
    """Open another phase when everything was looked at, and nothing removed or published yet."""
    one = reconcile(steps, settings)
    while True:
        at = await one._turn.load()
        if at.step == "doubts" and not await unread(steps):
            break
        await one.run(stop=AfterOnePiece(), containers=["Accounts"])
    await make_primary(steps.engine, phase)
    return (await one.run(containers=["Accounts"])).containers[0].counts


async def unread(steps: Steps) -> int:
    return await steps.count("crossfeed.reconcile_doubt WHERE read_at IS NULL")
