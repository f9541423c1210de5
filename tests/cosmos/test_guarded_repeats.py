"""A stamp that is written again changes nothing, whatever became of it the first time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from core.cosmos.failures import CosmosUnavailableError
from core.cosmos.guarded import GuardedWriter, Unchanged, Written
from core.envelope import Origin, stamped
from core.errors import HistoryLostError
from core.local.cosmos.faults import Cut, Operation, Refuse
from core.stamp import Stamp
from tests.cosmos.example import N1, NOTES, Kept, note, note_identity
from tests.cosmos.guarded_steps import gone, one, publish, state, writer_on
from tests.cosmos.steps import once, raw

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments
    from core.local.cosmos.faults import Action, Faults
    from tests.cosmos.steps import Seen


async def test_a_repeated_state_changes_nothing(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    await one(writer, state(1, 4, "same"))
    before = await raw(documents, N1)
    for again in (writer, writer_on(store)):
        assert await one(again, state(1, 4, "same")) == Unchanged(before["_etag"])
    assert await raw(documents, N1) == before


async def test_a_repeated_first_version_is_found_unchanged_although_it_is_created_outright(
    store: CosmosStore, writer: GuardedWriter
) -> None:
    await one(writer, state(1, 1))
    assert isinstance(await one(writer_on(store), state(1, 1)), Unchanged)


async def test_one_stamp_with_two_contents_is_left_alone_and_ends_the_work(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    await one(writer, state(1, 4, "one"))
    with pytest.raises(HistoryLostError, match=r"Note 'n1' .* 1\.4: .*crossfeed outbox resync"):
        await writer_on(store).write([state(1, 4, "two"), state(1, 1, id_="n2")])
    assert (await raw(documents, N1))["Title"] == "one"


async def test_a_field_that_the_model_got_since_is_no_lost_history(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    content = note()
    del content["Size"]
    await one(writer, publish(N1, Stamp(1, 4), content))
    with capture_logs() as logs:
        assert isinstance(await one(writer_on(store), state(1, 4)), Unchanged)
    assert [entry["event"] for entry in logs] == ["cosmos.one_stamp_two_contents"]
    assert "Size" not in await raw(documents, N1)


async def test_the_image_of_a_document_of_cosmos_need_not_be_the_same(store: CosmosStore) -> None:
    await store.container(NOTES).upsert_item(stamped(note(Title="of Cosmos DB"), Stamp(1, 4), Origin.COSMOS))
    assert isinstance(await one(writer_on(store), state(1, 4, "of Postgres")), Unchanged)


async def test_a_throttled_write_is_reported_with_the_wait_that_was_asked_for(
    faults: Faults, seen: Seen, fresh_store: CosmosStore, quarantine: Kept, documents: CosmosDocuments
) -> None:
    writer = writer_on(fresh_store, quarantine)
    items = [publish(note_identity(f"n{n}"), Stamp(1, 1), note(f"n{n}")) for n in range(20)]
    await fresh_store.existing_container(NOTES)
    once(faults, Refuse(status=429, retry_after_ms=120), Operation.CREATE)
    with pytest.raises(CosmosUnavailableError) as caught:
        await writer.write(items)
    assert caught.value.retry_after_s == pytest.approx(0.12)
    assert seen.operations.count(Operation.CREATE) < 20  # not all were sent once one was turned away
    outcomes = await writer.write(items)
    assert all(isinstance(outcome, Written | Unchanged) for outcome in outcomes)
    assert all([await documents.read(item.identity) for item in items])


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "fault",
    [Cut(moment="after"), Cut(moment="middle"), *(Refuse(status=n, moment="after") for n in (408, 449, 500, 503))],
    ids=lambda fault: f"{fault.kind} {getattr(fault, 'status', fault.moment)}",
)
async def test_a_write_whose_answer_was_lost_is_found_done_when_it_is_repeated(  # noqa: PLR0913, PLR0917 - fixtures
    faults: Faults, seen: Seen, fresh_store: CosmosStore, quarantine: Kept, version: int, fault: Action
) -> None:
    writer = writer_on(fresh_store, quarantine)
    if version == 2:
        await one(writer, state(1, 1))
    operation = Operation.CREATE if version == 1 else Operation.REPLACE
    once(faults, fault, operation)
    seen.forget()
    with pytest.raises(CosmosUnavailableError):
        await one(writer, state(1, version, "once"))
    assert seen.operations.count(operation) == 1
    assert isinstance(await one(writer, state(1, version, "once")), Unchanged)


async def test_a_tombstone_sent_again_after_its_life_was_set_anew_is_the_same_tombstone(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    await one(writer, gone(1, 2))
    longer = publish(N1, Stamp(1, 2), None, ttl_s=7200)
    with capture_logs() as logs:
        assert isinstance(await one(writer_on(store), longer), Unchanged)
    assert logs == []
    assert (await raw(documents, N1))["ttl"] == 3600


async def test_a_tombstone_and_a_state_with_one_stamp_end_the_work(store: CosmosStore, writer: GuardedWriter) -> None:
    await one(writer, gone(1, 2))
    with pytest.raises(HistoryLostError):
        await one(writer_on(store), state(1, 2))
