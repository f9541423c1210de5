"""Steps that the tests of the unit of work have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.cosmos.unit_of_work import CosmosUnitOfWork
from tests.cosmos.example import MAPPINGS, Line, Note

if TYPE_CHECKING:
    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments
    from core.entity import Entity
    from core.identity import Identity


def unit(store: CosmosStore, epoch: int = 1) -> CosmosUnitOfWork:
    return CosmosUnitOfWork(store, MAPPINGS, epoch)


async def add(store: CosmosStore, *entities: Entity, epoch: int = 1) -> None:
    async with unit(store, epoch) as work:
        for entity in entities:
            await work[type(entity)].add(entity)
        await work.commit()


async def get(store: CosmosStore, id_: str = "n1") -> Note | None:
    return await unit(store)[Note].get_by_id(id_)


async def have(store: CosmosStore, id_: str = "n1") -> Note:
    found = await get(store, id_)
    assert found is not None
    return found


def line(id_: str, account: str | None = "a", **fields: Any) -> Line:
    return Line(id=id_, account=account, code=id_, **fields)


async def raw(documents: CosmosDocuments, identity: Identity) -> Document:
    document = await documents.read(identity)
    assert document is not None
    return document
