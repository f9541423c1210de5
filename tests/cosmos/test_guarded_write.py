"""The guarded write: never backwards, never over a foreign document without keeping it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from core.cosmos.failures import CosmosUnavailableError
from core.cosmos.guarded import GuardedWriter, Outcome, Publish, Refused, Superseded, Unchanged, Written
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.envelope import Origin, Ours, author_of, stamped
from core.errors import PrimaryMovedError
from core.identity import Identity
from core.local.cosmos.faults import Cut, Operation, Refuse
from core.query import Equals, Query
from core.stamp import Stamp
from tests.cosmos.example import LINES, MAPPINGS, NOTES, Deep, Kept, note, note_identity
from tests.cosmos.steps import once

if TYPE_CHECKING:
    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments
    from core.local.cosmos.faults import Action, Faults
    from tests.cosmos.steps import Seen

N1 = note_identity("n1")


def state(epoch: int, version: int, title: str = "", taken: str | None = None) -> Publish:
    return Publish(N1, Stamp(epoch, version), note(Title=title), taken, loaded_in=1)


def gone(epoch: int, version: int) -> Publish:
    return Publish(N1, Stamp(epoch, version), None, loaded_in=1)


def writer_on(store: CosmosStore, quarantine: Kept) -> GuardedWriter:
    return GuardedWriter(store, MAPPINGS, quarantine, tombstone_ttl_s=3600, concurrency=8)


@pytest.fixture
def writer(store: CosmosStore, quarantine: Kept) -> GuardedWriter:
    return writer_on(store, quarantine)


async def one(writer: GuardedWriter, item: Publish) -> Outcome:
    [outcome] = await writer.write([item])
    return outcome


async def read(documents: CosmosDocuments, identity: Identity = N1) -> Document:
    document = await documents.read(identity)
    assert document is not None
    return document


async def foreign(store: CosmosStore, **content: Any) -> str:
    stored = await store.container(NOTES).upsert_item(note(**content))
    return str(stored["_etag"])


async def test_a_state_arrives_stamped_and_verifiable(writer: GuardedWriter, documents: CosmosDocuments) -> None:
    outcome = await one(writer, state(3, 7, "hello"))
    found = await read(documents)
    assert outcome == Written(found["_etag"])
    assert found["Title"] == "hello"
    assert author_of(found) == Ours(Stamp(3, 7), Origin.POSTGRES, deleted=False)


async def test_a_newer_state_replaces_an_older_one(writer: GuardedWriter, documents: CosmosDocuments) -> None:
    await one(writer, state(1, 1, "old"))
    assert isinstance(await one(writer, state(1, 2, "new")), Written)
    assert (await read(documents))["Title"] == "new"


@pytest.mark.parametrize("older", [Stamp(1, 8), Stamp(2, 4)])
async def test_an_older_state_is_refused_by_a_writer_that_never_saw_the_newer_one(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments, older: Stamp
) -> None:
    await one(writer, state(2, 5, "new"))
    stranger = writer_on(store, Kept())
    assert await one(stranger, state(*older, "old")) == Superseded(Stamp(2, 5))
    assert (await read(documents))["Title"] == "new"


async def test_a_repeated_state_changes_nothing(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    await one(writer, state(1, 4, "same"))
    before = await read(documents)
    for again in (writer, writer_on(store, Kept())):
        assert await one(again, state(1, 4, "same")) == Unchanged(before["_etag"])
    assert await read(documents) == before


async def test_a_repeated_first_version_is_found_unchanged_although_it_is_created_outright(
    store: CosmosStore, writer: GuardedWriter
) -> None:
    await one(writer, state(1, 1))
    assert isinstance(await one(writer_on(store, Kept()), state(1, 1)), Unchanged)


async def test_steady_state_is_one_round_trip(seen: Seen, fresh_store: CosmosStore, quarantine: Kept) -> None:
    writer = writer_on(fresh_store, quarantine)
    await one(writer, state(1, 1))
    seen.forget()
    for version in range(2, 6):
        await one(writer, state(1, version))
    assert seen.operations == [Operation.REPLACE] * 4


async def test_a_tombstone_takes_the_place_of_the_document_and_stays(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    await one(writer, state(1, 1, "alive"))
    await one(writer, gone(1, 2))
    found = await read(documents)
    assert author_of(found) == Ours(Stamp(1, 2), Origin.POSTGRES, deleted=True)
    assert found["ttl"] == 3600
    assert "Title" not in found
    assert await one(writer_on(store, Kept()), state(1, 1, "alive")) == Superseded(Stamp(1, 2))


async def test_a_delete_of_what_is_not_there_still_leaves_a_tombstone(
    writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    assert isinstance(await one(writer, gone(1, 9)), Written)
    assert author_of(await read(documents)) == Ours(Stamp(1, 9), Origin.POSTGRES, deleted=True)


async def test_what_was_deleted_may_be_created_again_with_a_newer_stamp(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    await one(writer, gone(1, 2))
    await one(writer_on(store, Kept()), state(1, 3, "again"))
    found = await read(documents)
    assert author_of(found) == Ours(Stamp(1, 3), Origin.POSTGRES, deleted=False)
    assert "ttl" not in found


async def test_a_foreign_document_is_kept_before_it_is_replaced(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments, quarantine: Kept
) -> None:
    await foreign(store, Title="rogue")
    assert isinstance(await one(writer, state(1, 2, "truth")), Written)
    assert [(identity, kept["Title"]) for identity, kept in quarantine.documents] == [(N1, "rogue")]
    assert (await read(documents))["Title"] == "truth"


async def test_a_foreign_document_that_the_row_has_taken_is_replaced_without_keeping_it(
    store: CosmosStore, writer: GuardedWriter, quarantine: Kept
) -> None:
    etag = await foreign(store, Title="taken over")
    assert isinstance(await one(writer, state(1, 2, "next", taken=etag)), Written)
    assert quarantine.documents == []


async def test_a_foreign_overwrite_of_our_document_is_noticed_in_steady_state(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments, quarantine: Kept
) -> None:
    await one(writer, state(1, 1, "ours"))
    await foreign(store, Title="rogue")
    await one(writer, state(1, 2, "truth"))
    assert [kept["Title"] for _, kept in quarantine.documents] == ["rogue"]
    assert (await read(documents))["Title"] == "truth"


async def test_a_forged_stamp_is_not_trusted(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments, quarantine: Kept
) -> None:
    forged = {**stamped(note(Title="a"), Stamp(9, 9), Origin.POSTGRES), "Title": "edited"}
    await store.container(NOTES).upsert_item(forged)
    assert isinstance(await one(writer, state(1, 2, "truth")), Written)
    assert len(quarantine.documents) == 1
    assert (await read(documents))["Title"] == "truth"


async def test_an_overwrite_with_the_same_stamp_is_healed_although_it_was_written_before(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    await one(writer, state(1, 4, "truth"))
    await foreign(store, Title="rogue")
    assert isinstance(await one(writer, state(1, 4, "truth")), Written)
    assert (await read(documents))["Title"] == "truth"


async def test_one_stamp_with_two_contents_is_left_alone_and_reported(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    await one(writer, state(1, 4, "one"))
    with capture_logs() as logs:
        assert isinstance(await one(writer_on(store, Kept()), state(1, 4, "two")), Unchanged)
    assert [entry["event"] for entry in logs] == ["cosmos.one_stamp_two_contents"]
    assert (await read(documents))["Title"] == "one"


async def test_a_hard_deleted_document_is_created_again(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    await one(writer, state(1, 1))
    await store.container(NOTES).delete_item("n1", partition_key="n1")
    assert isinstance(await one(writer, state(1, 2, "back")), Written)
    assert (await read(documents))["Title"] == "back"


async def test_only_the_newest_of_several_states_of_one_document_is_written(
    seen: Seen, fresh_store: CosmosStore, quarantine: Kept
) -> None:
    writer = writer_on(fresh_store, quarantine)
    await fresh_store.existing_container(NOTES)
    seen.forget()
    first, newest, middle = await writer.write([state(1, 1), state(1, 3), state(1, 2)])
    assert isinstance(newest, Written)
    assert first == middle == Superseded(Stamp(1, 3))
    assert seen.operations == [Operation.READ, Operation.CREATE]


@pytest.mark.parametrize(
    "item",
    [
        Publish(note_identity("a/b"), Stamp(1, 1), note("a/b"), loaded_in=1),
        Publish(note_identity("a/b"), Stamp(1, 1), None, loaded_in=1),
        Publish(N1, Stamp(1, 1), note(Size=2**53 + 1), loaded_in=1),
        Publish(N1, Stamp(1, 1), note(Title="x" * 2**21), loaded_in=1),
        Publish(N1, Stamp(1, 1), note("other"), loaded_in=1),
    ],
    ids=["id", "tombstone-id", "number", "size", "identity"],
)
async def test_what_cosmos_cannot_hold_is_refused_without_stopping_the_others(
    writer: GuardedWriter, item: Publish
) -> None:
    bad, good = await writer.write([item, Publish(note_identity("n2"), Stamp(1, 1), note("n2"), loaded_in=1)])
    assert isinstance(bad, Refused)
    assert "xxxx" not in bad.reason
    assert isinstance(good, Written)


async def test_a_unique_key_held_by_another_document_is_the_documents_own_fault(
    writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    def line(id_: str, version: int, code: str | None) -> Publish:
        content = {"id": id_, "accountId": "a", "Text": "", "Code": code}
        return Publish(Identity.of("Line", ["a"], id_), Stamp(1, version), content, loaded_in=1)

    assert isinstance(await one(writer, line("l1", 1, "c")), Written)
    for refused in (await one(writer, line("l2", 1, "c")), await one(writer, line("l2", 2, "c"))):
        assert isinstance(refused, Refused)
        assert refused.status == 409
    assert isinstance(await one(writer, line("l3", 1, "d")), Written)
    assert isinstance(await one(writer, line("l3", 2, "c")), Refused)
    assert (await read(documents, Identity.of("Line", ["a"], "l3")))["Code"] == "d"


async def test_tombstones_do_not_collide_on_unique_keys(writer: GuardedWriter) -> None:
    items = [Publish(Identity.of("Line", ["a"], id_), Stamp(1, 2), None, loaded_in=1) for id_ in ("l1", "l2", "l3")]
    assert all(isinstance(outcome, Written) for outcome in await writer.write(items))
    assert LINES.unique_keys


@pytest.mark.parametrize("key", [["a"], [None], [True], [7], [1.5], [""], ["é/\\?#"]])
async def test_every_kind_of_partition_key_is_written_and_read(
    writer: GuardedWriter, documents: CosmosDocuments, key: list[Any]
) -> None:
    identity = Identity.of("Line", key, "l1")
    for version in (1, 2):
        content = {"id": "l1", "accountId": key[0], "Text": str(version), "Code": None}
        assert isinstance(await one(writer, Publish(identity, Stamp(1, version), content, loaded_in=1)), Written)
    assert isinstance(await one(writer, Publish(identity, Stamp(1, 3), None, loaded_in=1)), Written)
    assert author_of(await read(documents, identity)) == Ours(Stamp(1, 3), Origin.POSTGRES, deleted=True)


async def test_a_hierarchical_nested_key_is_written_read_and_deleted(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    identity = Identity.of("Deep", ["t", 7], "d1")
    content = {"id": "d1", "tenant": "t", "place": {"city": 7, "street": "x"}}
    for version, state in enumerate((content, content, None), start=1):
        assert isinstance(await one(writer, Publish(identity, Stamp(1, version), state, loaded_in=1)), Written)
    found = await read(documents, identity)
    assert author_of(found) == Ours(Stamp(1, 3), Origin.POSTGRES, deleted=True)
    assert found["place"] == {"city": 7}
    async with CosmosUnitOfWork(store, MAPPINGS, 2) as work:
        await work[Deep].add(Deep(id="d1", tenant="t", place={"city": 7}))
        await work[Deep].add(Deep(id="d2", tenant="t", place={"city": 7}))
        await work.commit()
    deeps = CosmosUnitOfWork(store, MAPPINGS, 2)[Deep]
    assert await deeps.exists("d1", partition_key=("t", 7))
    assert not await deeps.exists("d1", partition_key=("t", 8))
    assert [entity.id for entity in await deeps.list(Query((Equals("tenant", "t"),)))] == ["d1", "d2"]
    assert (await read(documents, identity))["crossfeed"]["version"] == 4


async def test_a_throttled_write_is_reported_with_the_wait_that_was_asked_for(
    faults: Faults, seen: Seen, fresh_store: CosmosStore, quarantine: Kept, documents: CosmosDocuments
) -> None:
    writer = writer_on(fresh_store, quarantine)
    items = [Publish(note_identity(f"n{n}"), Stamp(1, 1), note(f"n{n}"), loaded_in=1) for n in range(20)]
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


async def test_nothing_is_replaced_when_the_foreign_document_could_not_be_kept(
    store: CosmosStore, documents: CosmosDocuments
) -> None:
    class Broken(Kept):
        async def untaken(self, item: Publish, found: Document) -> None:
            raise CosmosUnavailableError("no")

    await foreign(store, Title="rogue")
    with pytest.raises(CosmosUnavailableError):
        await one(writer_on(store, Broken()), state(1, 2, "truth"))
    assert (await read(documents))["Title"] == "rogue"


class OfTheNextEpoch(Kept):
    """The quarantine of a writer that slept through a flip."""

    async def untaken(self, item: Publish, found: Document) -> None:
        raise PrimaryMovedError(str(item.loaded_in))

    async def confirm(self, item: Publish) -> None:
        raise PrimaryMovedError(str(item.loaded_in))


@pytest.mark.parametrize("item", [state(1, 1), state(1, 2), gone(1, 2)], ids=["first", "later", "tombstone"])
async def test_nothing_is_created_in_an_epoch_that_is_over(
    store: CosmosStore, documents: CosmosDocuments, item: Publish
) -> None:
    with pytest.raises(PrimaryMovedError):
        await one(writer_on(store, OfTheNextEpoch()), item)
    assert await documents.read(N1) is None


@pytest.mark.parametrize("item", [state(1, 2), gone(1, 2)], ids=["state", "tombstone"])
@pytest.mark.parametrize("is_taken", [True, False])
async def test_nothing_foreign_is_replaced_in_an_epoch_that_is_over(
    store: CosmosStore, documents: CosmosDocuments, item: Publish, is_taken: bool
) -> None:
    etag = await foreign(store, Title="of the new primary")
    zombie = writer_on(store, OfTheNextEpoch())
    with pytest.raises(PrimaryMovedError):
        await one(zombie, dataclasses.replace(item, taken_etag=etag if is_taken else None))
    assert (await read(documents))["Title"] == "of the new primary"


async def test_a_flip_stops_what_has_not_been_sent(seen: Seen, fresh_store: CosmosStore) -> None:
    await fresh_store.existing_container(NOTES)
    seen.forget()
    writer = GuardedWriter(fresh_store, MAPPINGS, OfTheNextEpoch(), 3600, concurrency=2)
    items = [Publish(note_identity(f"n{n}"), Stamp(1, 2), note(f"n{n}"), loaded_in=1) for n in range(20)]
    with pytest.raises(PrimaryMovedError):
        await writer.write(items)
    assert seen.operations == [Operation.READ] * 2


async def test_the_epoch_is_confirmed_for_a_create_and_not_for_a_steady_update(
    writer: GuardedWriter, quarantine: Kept
) -> None:
    for version in (1, 2, 3):
        assert isinstance(await one(writer, state(1, version)), Written)
    assert quarantine.confirmed == [N1]


async def test_a_tombstone_sent_again_after_its_life_was_set_anew_is_the_same_tombstone(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    await one(writer, gone(1, 2))
    longer = GuardedWriter(store, MAPPINGS, Kept(), tombstone_ttl_s=7200, concurrency=8)
    with capture_logs() as logs:
        assert isinstance(await one(longer, gone(1, 2)), Unchanged)
    assert logs == []
    assert (await read(documents))["ttl"] == 3600


async def test_a_tombstone_and_a_state_with_one_stamp_are_reported(store: CosmosStore, writer: GuardedWriter) -> None:
    await one(writer, gone(1, 2))
    with capture_logs() as logs:
        assert isinstance(await one(writer_on(store, Kept()), state(1, 2)), Unchanged)
    assert [entry["event"] for entry in logs] == ["cosmos.one_stamp_two_contents"]


async def test_the_memory_of_etags_is_bounded_and_forgetting_is_harmless(
    store: CosmosStore, quarantine: Kept, documents: CosmosDocuments
) -> None:
    writer = GuardedWriter(store, MAPPINGS, quarantine, 3600, 8, remember=2)
    for version in (1, 2, 3):
        await writer.write(
            [
                Publish(note_identity(f"n{n}"), Stamp(1, version), note(f"n{n}", Size=version), loaded_in=1)
                for n in range(5)
            ]
        )
    assert len(writer._seen) == 2
    assert [(await read(documents, note_identity(f"n{n}")))["Size"] for n in range(5)] == [3] * 5
