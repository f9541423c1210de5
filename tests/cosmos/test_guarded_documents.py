"""A guarded write takes every document that Cosmos DB can hold and refuses each of the others alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from core.cosmos.guarded import GuardedWriter, Publish, Refused, Written
from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.envelope import Origin, Ours, author_of
from core.errors import DocumentRefusedError
from core.identity import Identity
from core.query import Equals, Query
from core.stamp import Stamp
from tests.cosmos.example import LINES, MAPPINGS, N1, Deep, note, note_identity
from tests.cosmos.guarded_steps import one, publish
from tests.cosmos.steps import raw

if TYPE_CHECKING:
    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments


@pytest.mark.parametrize(
    ("identity", "content"),
    [
        (note_identity("a/b"), note("a/b")),
        (note_identity("a/b"), None),
        (N1, note(Size=2**53 + 1)),
        (N1, note(Title="x" * 2**21)),
        (N1, note("other")),
    ],
    ids=["id", "tombstone-id", "number", "size", "identity"],
)
def test_what_cosmos_cannot_hold_is_refused_before_it_is_sent(identity: Identity, content: Document | None) -> None:
    with pytest.raises(DocumentRefusedError) as caught:
        publish(identity, Stamp(1, 1), content)
    assert "xxxx" not in str(caught.value)


async def test_a_unique_key_held_by_another_document_is_the_documents_own_fault(
    writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    def line(id_: str, version: int, code: str | None) -> Publish:
        content = {"id": id_, "accountId": "a", "Text": "", "Code": code}
        return publish(Identity.of("Line", ["a"], id_), Stamp(1, version), content)

    assert isinstance(await one(writer, line("l1", 1, "c")), Written)
    for refused in (await one(writer, line("l2", 1, "c")), await one(writer, line("l2", 2, "c"))):
        assert isinstance(refused, Refused)
        assert refused.status == 409
    assert isinstance(await one(writer, line("l3", 1, "d")), Written)
    assert isinstance(await one(writer, line("l3", 2, "c")), Refused)
    assert (await raw(documents, Identity.of("Line", ["a"], "l3")))["Code"] == "d"


async def test_tombstones_do_not_collide_on_unique_keys(writer: GuardedWriter) -> None:
    items = [publish(Identity.of("Line", ["a"], id_), Stamp(1, 2), None) for id_ in ("l1", "l2", "l3")]
    assert all(isinstance(outcome, Written) for outcome in await writer.write(items))
    assert LINES.unique_keys


@pytest.mark.parametrize("key", [["a"], [None], [True], [7], [1.5], [""], ["é/\\?#"]])
async def test_every_kind_of_partition_key_is_written_and_read(
    writer: GuardedWriter, documents: CosmosDocuments, key: list[Any]
) -> None:
    identity = Identity.of("Line", key, "l1")
    for version in (1, 2):
        content = {"id": "l1", "accountId": key[0], "Text": str(version), "Code": None}
        assert isinstance(await one(writer, publish(identity, Stamp(1, version), content)), Written)
    assert isinstance(await one(writer, publish(identity, Stamp(1, 3), None)), Written)
    assert author_of(await raw(documents, identity)) == Ours(Stamp(1, 3), Origin.POSTGRES, deleted=True)


async def test_a_hierarchical_nested_key_is_written_read_and_deleted(
    store: CosmosStore, writer: GuardedWriter, documents: CosmosDocuments
) -> None:
    identity = Identity.of("Deep", ["t", 7], "d1")
    content = {"id": "d1", "tenant": "t", "place": {"city": 7, "street": "x"}}
    for version, state in enumerate((content, content, None), start=1):
        assert isinstance(await one(writer, publish(identity, Stamp(1, version), state)), Written)
    found = await raw(documents, identity)
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
    assert (await raw(documents, identity))["crossfeed"]["version"] == 4
