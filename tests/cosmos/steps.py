"""Steps that these tests have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.local.cosmos.faults import Constant, Delay, Match, Operation, Rule
from tests.cosmos.example import MAPPINGS, Line, Note

if TYPE_CHECKING:
    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments
    from core.entity import Entity
    from core.identity import Identity
    from core.local.cosmos.faults import Action, Faults

READING = frozenset({Operation.READ, Operation.QUERY})


class Seen:
    """The operations that were asked for, in their order: all requests, also those that meet a fault added later."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._skip = 0
        # A delay of no time is the fault that changes nothing and is logged.
        self._rule = faults.add(Rule(do=Delay(duration=Constant(seconds=0)), name="seen")).name

    @property
    def _all(self) -> list[Operation]:
        return [injection.operation for injection in self._faults.log if injection.rule == self._rule]

    @property
    def operations(self) -> list[Operation]:
        """What was seen since the test began, or forgot."""
        return self._all[self._skip :]

    def forget(self) -> None:
        self._skip = len(self._all)


def once(faults: Faults, do: Action, *operations: Operation, times: int = 1) -> None:
    """Let a fault happen to the next request of these operations."""
    faults.add(Rule(do=do, on=Match(operations=frozenset(operations)), times=times))


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
