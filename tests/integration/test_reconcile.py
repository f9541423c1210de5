"""Reconcile while Cosmos DB is the primary: hard deletes are believed, and only those; lost changes are taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from changefeed.reconcile import TooManyMissingError
from core.cosmos.client import open_cosmos
from core.cosmos.watermarks import write_watermarks
from core.discriminator import Discriminator
from core.domain import tables
from core.domain.account import Account
from core.domain.mappings import ACCOUNTS
from core.domain.user_profile import UserProfile
from core.errors import ConfigurationError
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.phases import Phase
from core.postgres import dead_letters
from core.postgres.dead_letters import REFUSED, DeadLetter, Direction
from outbox.relay import open_relay
from tests.integration.mirror_steps import Steps, same
from tests.integration.reconcile_steps import (
    HOUR,
    counts,
    hard_delete,
    legacy,
    mirrored,
    passed,
    reconcile,
    run_with,
)
from tests.integration.relay_steps import make_primary, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.settings import Settings


@pytest.fixture
def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    return Steps(engine, cosmos, mappings, ACCOUNTS)


async def test_a_row_whose_document_was_deleted_by_somebody_else_is_removed_under_a_tombstone(
    steps: Steps, settings: Settings
) -> None:
    await mirrored(steps, "a", "b", "c")
    before = await steps.held("b")
    await hard_delete(steps, "b")
    await run(
        steps.engine,
        "INSERT INTO crossfeed.event_taken (entity, partition_key, id, event_ids, deleted)"
        """ SELECT 'Account', '["' || id || '"]', id, ARRAY['e'], false FROM accounts WHERE id <> 'a'""",
    )
    assert await passed(steps, settings) == counts(documents=2, rows=3, doubted=1, removed=1)
    assert await steps.count("crossfeed.event_taken") == 1  # what is gone carries no events any more
    assert [same(await steps.content(id_), await steps.current(id_)) for id_ in "abc"] == [True] * 3
    held = await steps.held("b")
    assert held.row is None
    assert held.tombstone is not None
    assert before.stamp is not None
    assert held.tombstone.stamp == (before.stamp.epoch, before.stamp.version + 1)
    assert await passed(steps, settings) == counts(documents=2, rows=2)
    for what in ("seen", "range", "doubt"):
        assert await steps.count(f"crossfeed.reconcile_{what}") == 0
    # What the feed showed before the delete is shown once more: it stays deleted.
    await steps.apply(steps.history)
    assert await steps.content("b") is None


async def test_a_document_that_was_created_again_between_the_two_reads_keeps_its_row(
    steps: Steps, settings: Settings
) -> None:
    await mirrored(steps, "a", "b")
    await hard_delete(steps, "b")
    one = reconcile(steps, settings)

    async def again() -> None:
        await steps.foreign(legacy("b", DisplayName="again"))

    report = await run_with(one, "first look", again)
    assert report == counts(documents=1, rows=2, doubted=1, found=1, applied=0)
    # It was given to the guarded write at once: the row is that of the new document.
    assert same(await steps.content("b"), await steps.current("b"))


async def test_a_row_that_was_written_between_the_two_reads_is_kept_although_nothing_was_found(
    steps: Steps, settings: Settings
) -> None:
    await mirrored(steps, "a", "b")
    await hard_delete(steps, "b")

    async def rewritten() -> None:
        """The mirror applies a creation that is deleted before anybody reads it."""
        await steps.foreign(legacy("b", DisplayName="short-lived"))
        await steps.apply(steps.history)
        await hard_delete(steps, "b")

    report = await run_with(reconcile(steps, settings), "first look", rewritten)
    assert report == counts(documents=1, rows=2, doubted=1, kept=1)
    content = await steps.content("b")
    assert content is not None
    assert content["DisplayName"] == "short-lived"
    assert (await passed(steps, settings)).removed == 1


async def test_what_is_created_after_the_delete_was_believed_wins(steps: Steps, settings: Settings) -> None:
    await mirrored(steps, "a", "b")
    await hard_delete(steps, "b")
    await passed(steps, settings)
    await steps.foreign(legacy("b", DisplayName="again"))
    await steps.apply(steps.history)  # the old state once more, and the new one
    assert same(await steps.content("b"), await steps.current("b"))
    assert await passed(steps, settings) == counts(documents=2, rows=2)


async def test_a_change_that_the_mirror_never_got_does_not_bring_the_deleted_document_back(
    steps: Steps, settings: Settings
) -> None:
    await mirrored(steps, "a", "b")
    await steps.foreign(legacy("b", DisplayName="on its way"))
    late = steps.history[-1:]
    await hard_delete(steps, "b")
    assert (await passed(steps, settings)).removed == 1
    await steps.apply(late)
    assert await steps.content("b") is None


async def test_documents_that_the_mirror_has_lost_are_found_with_their_changes_and_tombstones(
    steps: Steps, settings: Settings
) -> None:
    await mirrored(steps, "changed", "buried", "same")
    await steps.foreign(legacy("changed", DisplayName="new"))
    await steps.foreign(legacy("new"))
    await steps.delete("buried")
    assert await passed(steps, settings) == counts(documents=4, applied=3, rows=3)
    for id_ in ("changed", "new", "same"):
        assert same(await steps.content(id_), await steps.current(id_)), id_
    assert (await steps.held("buried")).row is None
    assert await passed(steps, settings) == counts(documents=4, rows=3)


async def test_what_is_younger_than_the_lag_window_is_left_to_the_mirror(steps: Steps, settings: Settings) -> None:
    await mirrored(steps, "a")
    await steps.foreign(legacy("new"))
    report = await passed(steps, settings, reconcile_lag_s=60.0)
    assert report == counts(documents=2, recent=1, rows=1)


async def test_watermarks_and_other_documents_of_crossfeed_count_for_nothing(steps: Steps, settings: Settings) -> None:
    await mirrored(steps, "a")
    await write_watermarks(steps.store, steps.mapping, 1, 3600)
    assert await passed(steps, settings) == counts(documents=1, rows=1)


async def test_a_row_that_cosmos_has_refused_was_never_there_to_be_deleted(steps: Steps, settings: Settings) -> None:
    await make_primary(steps.engine)
    await run(steps.engine, "INSERT INTO accounts (id) VALUES ('refused'), ('parked'), ('a')")
    await open_relay(settings, steps.mappings, steps.engine, steps.store).drain()
    for id_ in ("refused", "parked", "a"):
        await hard_delete(steps, id_)
    identity = steps.mapping.identity_of("refused", "refused")
    async with steps.engine.begin() as connection:
        await dead_letters.record(connection, DeadLetter(Direction.TO_COSMOS, REFUSED, identity, "too large"))
    await run(
        steps.engine,
        "INSERT INTO crossfeed.parked (slot, entity, partition_key, id, reason, attempts, retry_at)"
        " VALUES (0, 'Account', '[\"parked\"]', 'parked', 'too large', 1, now())",
    )
    await make_primary(steps.engine, Phase.DUAL_WRITE_COSMOS_READ)
    assert await passed(steps, settings) == counts(rows=3, doubted=3, kept=2, removed=1)
    assert [await steps.content(id_) is not None for id_ in ("refused", "parked", "a")] == [True, True, False]


async def test_an_emptied_container_is_refused_with_the_numbers_until_it_is_asked_for(
    steps: Steps, settings: Settings
) -> None:
    ids = [f"a{number}" for number in range(12)]
    await mirrored(steps, *ids)
    for id_ in ids[1:]:
        await hard_delete(steps, id_)
    with pytest.raises(TooManyMissingError, match=r"Accounts: 11 of 12 rows; at most 10%.*--max-removed-share 1"):
        await passed(steps, settings)
    assert await steps.count("accounts") == 12
    assert (await passed(steps, settings, reconcile_max_removed_share=1.0)).removed == 11
    assert await steps.count("accounts") == 1


async def test_a_few_rows_may_go_whatever_share_of_a_small_table_they_are(steps: Steps, settings: Settings) -> None:
    await mirrored(steps, "a")
    await hard_delete(steps, "a")
    assert (await passed(steps, settings)).removed == 1


async def test_a_delete_that_was_believed_in_the_wrong_account_is_undone_by_the_next_pass_in_the_right_one(
    steps: Steps, settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    for number in range(9):
        await steps.foreign(legacy("a", DisplayName=str(number)))
    await steps.apply(steps.history)
    wrong = settings.model_copy(update={"cosmos_database": f"{settings.cosmos_database}-wrong"})
    async with open_cosmos(wrong) as store:
        await store.provision(mappings)
        elsewhere = Steps(engine, store, mappings, ACCOUNTS)
        # A container that counts its changes anew is no replica that lags: that is believed when a minute has passed.
        assert (await passed(elsewhere, settings)).behind == 1
        assert (await passed(elsewhere, settings, ahead=HOUR)).removed == 1
    assert await steps.content("a") is None
    assert (await passed(steps, settings)).applied == 1
    assert same(await steps.content("a"), await steps.current("a"))


async def test_a_dry_run_counts_and_changes_nothing(steps: Steps, settings: Settings) -> None:
    await mirrored(steps, "a", "b")
    await hard_delete(steps, "b")
    await steps.foreign(legacy("new"))
    report = await reconcile(steps, settings).run(containers=["Accounts"], dry_run=True)
    assert report.containers[0].counts == counts(documents=2, applied=1, rows=2, doubted=1, removed=1)
    assert [await steps.content(id_) is not None for id_ in ("a", "b", "new")] == [True, True, False]
    # And what it found is forgotten: the real one looks for itself.
    assert await passed(steps, settings) == counts(documents=2, applied=1, rows=3, doubted=1, removed=1)


async def test_types_that_share_a_container_are_looked_at_together_and_each_row_by_its_own_type(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore
) -> None:
    accounts, profiles = (
        EntityMapping(
            model,
            table=table,
            container="Shared",
            partition_key="/id",
            discriminator=Discriminator(properties=("Discriminator",), values=(model.__name__,)),
        )
        for model, table in ((Account, tables.accounts), (UserProfile, tables.user_profiles))
    )
    shared = Mappings([accounts, profiles])
    await cosmos.provision(shared)
    steps = Steps(engine, cosmos, shared, accounts)
    for id_, type_ in (("a", "Account"), ("b", "Account"), ("p", "UserProfile"), ("x", "Nobody")):
        await steps.foreign({"id": id_, "Discriminator": type_})
    await steps.apply(steps.history)
    await hard_delete(steps, "p")
    await hard_delete(steps, "b")
    await steps.foreign({"id": "b", "Discriminator": "UserProfile"})  # and the mirror never hears of it
    report = await passed(steps, settings)
    assert (report.documents, report.unmapped, report.removed) == (3, 1, 1)
    assert [await steps.content(id_) is not None for id_ in ("a", "b", "p")] == [True, False, False]
    others = Steps(engine, cosmos, shared, profiles)
    assert [await others.content(id_) is not None for id_ in ("a", "b", "p")] == [False, True, False]


async def test_an_account_whose_reads_may_be_old_has_none_of_its_deletes_believed(
    steps: Steps, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await steps.store.client._get_database_account()
    account.ConsistencyPolicy = {"defaultConsistencyLevel": "Eventual"}

    async def eventual() -> Any:
        return account

    monkeypatch.setattr(steps.store.client, "_get_database_account", eventual)
    with pytest.raises(ConfigurationError, match="Eventual"):
        await passed(steps, settings)
