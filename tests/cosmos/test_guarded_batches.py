"""A guarded write sends documents that share a logical partition together, and judges each as if it were alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.cosmos.batches import MOST_GUILTY
from core.cosmos.failures import CosmosUnavailableError
from core.cosmos.guarded import GuardedWriter, Refused, Superseded, Unchanged, Written
from core.envelope import Origin, Ours, author_of
from core.local.cosmos.faults import WRITES, Cut, Operation, Refuse
from core.stamp import Stamp
from tests.cosmos.example import LINES, MAPPINGS, Kept
from tests.cosmos.guarded_steps import line, line_identity, lines, publish, writer_on
from tests.cosmos.steps import once, raw

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments
    from core.local.cosmos.faults import Action, Faults
    from tests.cosmos.steps import Seen


def writing(seen: Seen) -> list[Operation]:
    return [operation for operation in seen.operations if operation in WRITES]


async def test_documents_of_one_logical_partition_are_one_request(
    seen: Seen, store: CosmosStore, documents: CosmosDocuments
) -> None:
    writer = writer_on(store)
    assert all(isinstance(outcome, Written) for outcome in await writer.write(lines(100, 1)))
    seen.forget()
    for version in (2, 3):
        outcomes = await writer.write(lines(100, version))
        found = [(await raw(documents, line_identity(number)))["_etag"] for number in (0, 50, 99)]
        assert [outcomes[number] for number in (0, 50, 99)] == [Written(etag) for etag in found]
    assert writing(seen) == [Operation.BATCH] * 2


async def test_no_batch_is_larger_than_cosmos_db_takes(seen: Seen, store: CosmosStore) -> None:
    writer = writer_on(store)
    small = await writer.write(lines(101, 1))
    large = await writer.write([line(200 + number, 1, text="ü" * 200_000) for number in range(4)])
    assert all(isinstance(outcome, Written) for outcome in small + large)
    # 100 and 1; 2 and 2 of 0.4 MB each.
    assert sorted(writing(seen)) == [Operation.BATCH] * 3 + [Operation.CREATE]


async def test_a_writer_that_knows_nothing_looks_first_and_writes_together(
    seen: Seen, store: CosmosStore, documents: CosmosDocuments
) -> None:
    await writer_on(store).write(lines(5, 1))
    seen.forget()
    items = [line(0, 1), line(1, 2), line(2, 2), line(3, 3), publish(line_identity(4), Stamp(1, 2), None)]
    outcomes = await writer_on(store).write(items)
    assert isinstance(outcomes[0], Unchanged)
    assert all(isinstance(outcome, Written) for outcome in outcomes[1:])
    assert seen.operations.count(Operation.BATCH) == 2  # version 1 is created without looking, and was there
    assert author_of(await raw(documents, line_identity(4))) == Ours(Stamp(1, 2), Origin.POSTGRES, deleted=True)


async def test_the_guilty_one_is_judged_alone_and_its_siblings_are_written(
    seen: Seen, store: CosmosStore, documents: CosmosDocuments
) -> None:
    writer = writer_on(store)
    await writer.write([line(9, 1, code="taken")])
    seen.forget()
    outcomes = await writer.write([*lines(4, 1), line(5, 1, code="taken"), line(6, 1)])
    assert isinstance(outcomes.pop(4), Refused)
    assert all(isinstance(outcome, Written) for outcome in outcomes)
    assert writing(seen)[:2] == [Operation.BATCH] * 2
    assert set(writing(seen)[2:]) == {Operation.CREATE}
    assert await documents.read(line_identity(5)) is None


async def test_more_guilty_ones_than_a_batch_is_worth_leave_nobody_out(seen: Seen, store: CosmosStore) -> None:
    writer = writer_on(store)
    await writer.write([line(99, 1, code="taken")])
    seen.forget()
    guilty = [line(number, 1, code="taken") for number in range(MOST_GUILTY + 4)]
    innocent = [line(50 + number, 1) for number in range(3)]
    outcomes = await writer.write([*guilty, *innocent])
    assert [type(outcome) for outcome in outcomes] == [Refused] * len(guilty) + [Written] * 3
    assert seen.operations.count(Operation.BATCH) <= MOST_GUILTY + 1


async def test_a_unique_key_that_a_sibling_gives_up_is_free_for_the_one_before_it(store: CosmosStore) -> None:
    writer = writer_on(store)
    await writer.write([line(1, 1, code="mine")])
    outcomes = await writer.write([line(0, 1, code="mine"), line(1, 2, code="other"), line(2, 1)])
    assert all(isinstance(outcome, Written) for outcome in outcomes)


async def test_documents_that_another_writer_wrote_meanwhile_are_looked_at_and_never_taken_back(
    seen: Seen, store: CosmosStore, documents: CosmosDocuments
) -> None:
    writer = writer_on(store)
    await writer.write(lines(40, 1))
    await writer_on(store).write(lines(40, 5))
    seen.forget()
    outcomes = await writer.write([line(number, 3 if number < 30 else 7) for number in range(40)])
    assert outcomes[:30] == [Superseded(Stamp(1, 5))] * 30
    assert all(isinstance(outcome, Written) for outcome in outcomes[30:])
    assert seen.operations.count(Operation.BATCH) == 3  # two that were wrong, and one after looking
    assert (await raw(documents, line_identity(0)))["crossfeed"]["version"] == 5


async def test_foreign_documents_are_kept_before_a_batch_replaces_them(
    store: CosmosStore, documents: CosmosDocuments
) -> None:
    quarantine = Kept()
    writer = writer_on(store, quarantine)
    await writer.write(lines(4, 1))
    for number in (1, 2):
        rogue = {"id": f"l{number}", "accountId": "a", "Text": "rogue", "Code": f"c{number}"}
        await store.container(LINES).upsert_item(rogue)
    assert all(isinstance(outcome, Written) for outcome in await writer.write(lines(4, 2)))
    assert sorted(identity.id for identity, _ in quarantine.documents) == ["l1", "l2"]
    assert (await raw(documents, line_identity(1)))["Text"] == ""


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "fault",
    [Cut(moment="after"), Cut(moment="middle"), *(Refuse(status=n, moment="after") for n in (408, 449, 503))],
    ids=lambda fault: f"{fault.kind} {getattr(fault, 'status', fault.moment)}",
)
async def test_a_batch_whose_answer_was_lost_is_found_done(
    faults: Faults, seen: Seen, store: CosmosStore, version: int, fault: Action
) -> None:
    writer = GuardedWriter(store, MAPPINGS, Kept(), 8, patience_s=2.0)
    if version == 2:
        await writer.write(lines(6, 1))
    once(faults, fault, Operation.BATCH)
    seen.forget()
    outcomes = await writer.write(lines(6, version))
    assert all(isinstance(outcome, Unchanged) for outcome in outcomes)
    assert seen.operations.count(Operation.BATCH) <= 2 + version
    assert writer.state().retries > 0


@pytest.mark.parametrize("status", [400, 413])
async def test_a_batch_that_is_refused_as_a_whole_goes_one_by_one(
    faults: Faults, seen: Seen, store: CosmosStore, status: int
) -> None:
    once(faults, Refuse(status=status), Operation.BATCH)
    assert all(isinstance(outcome, Written) for outcome in await writer_on(store).write(lines(3, 1)))
    assert seen.operations.count(Operation.CREATE) == 3


async def test_a_batch_that_is_turned_away_is_nobodys_fault(faults: Faults, store: CosmosStore) -> None:
    once(faults, Refuse(status=429, retry_after_ms=30), Operation.BATCH)
    with pytest.raises(CosmosUnavailableError) as caught:
        await writer_on(store).write(lines(3, 1))
    assert caught.value.retry_after_s == pytest.approx(0.03)
    assert all(isinstance(outcome, Written) for outcome in await writer_on(store).write(lines(3, 1)))


async def test_several_states_of_one_document_among_others_leave_the_newest(
    store: CosmosStore, documents: CosmosDocuments
) -> None:
    outcomes = await writer_on(store).write([line(0, 1), line(1, 1), line(0, 3), line(0, 2)])
    assert outcomes[0] == outcomes[3] == Superseded(Stamp(1, 3))
    assert isinstance(outcomes[1], Written)
    assert isinstance(outcomes[2], Written)
    assert (await raw(documents, line_identity(0)))["crossfeed"]["version"] == 3
