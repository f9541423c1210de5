"""Every request of a unit of work that writes goes through its gate, when it is sent and when it is answered."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.entity import loaded
from core.errors import OutcomeUnknownError, PrimaryMovedError
from core.local.cosmos.faults import WRITES, Operation, Refuse
from tests.cosmos.example import MAPPINGS, Note
from tests.cosmos.steps import add, get, have, line, once

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from core.cosmos.client import CosmosStore
    from core.local.cosmos.faults import Faults
    from tests.cosmos.steps import Seen


class Gate:
    """Counts what goes through it; closes when told to, before a request or before its answer."""

    def __init__(self, *, lets_in: int = 99, is_open_to_the_end: bool = True) -> None:
        self.epochs: list[int] = []
        self._lets_in = lets_in
        self._is_open_to_the_end = is_open_to_the_end

    @asynccontextmanager
    async def writing(self, epoch: int) -> AsyncIterator[None]:
        if len(self.epochs) >= self._lets_in:
            msg = "closed"
            raise PrimaryMovedError(msg)
        self.epochs.append(epoch)
        yield
        if not self._is_open_to_the_end:
            msg = "too late"
            raise OutcomeUnknownError(msg)


def unit(store: CosmosStore, gate: Gate) -> CosmosUnitOfWork:
    return CosmosUnitOfWork(store, MAPPINGS, 7, gate=gate)


async def test_each_request_that_writes_goes_through_with_the_epoch_of_its_unit(
    seen: Seen, fresh_store: CosmosStore
) -> None:
    gate = Gate()
    for write in ("add", "update", "delete"):
        async with unit(fresh_store, gate) as work:
            note = Note(id="n1") if write == "add" else await work[Note].get_by_id("n1")
            await getattr(work[Note], write)(note)
            assert len(await work[Note].list()) == (write != "delete")
            await work.commit()
    async with unit(fresh_store, gate) as work:
        for entity in (line("l1"), line("l2")):
            await work[type(entity)].add(entity)
        await work.commit()
        await work.commit()  # nothing is left to send
    assert gate.epochs == [7] * 4
    assert len(WRITES.intersection(seen.operations)) == 3  # creates, replaces and a batch
    assert sum(operation in WRITES for operation in seen.operations) == 4


async def test_behind_a_closed_gate_nothing_is_sent(seen: Seen, fresh_store: CosmosStore) -> None:
    note = Note(id="n1")
    async with unit(fresh_store, Gate(lets_in=0)) as work:
        await work[Note].add(note)
        with pytest.raises(PrimaryMovedError, match="closed"):
            await work.commit()
        await work.commit()  # the unit is empty
    assert not WRITES.intersection(seen.operations)
    assert loaded(note) is None


async def test_a_write_that_was_turned_away_goes_through_the_gate_again(
    faults: Faults, fresh_store: CosmosStore, store: CosmosStore
) -> None:
    once(faults, Refuse(status=429, retry_after_ms=1), Operation.CREATE, times=2)
    gate = Gate(lets_in=2)
    async with unit(fresh_store, gate) as work:
        await work[Note].add(Note(id="n1"))
        with pytest.raises(PrimaryMovedError):
            await work.commit()
    assert len(gate.epochs) == 2
    assert await get(store) is None


async def test_a_write_that_is_answered_behind_a_closed_gate_is_not_acknowledged(store: CosmosStore) -> None:
    await add(store, Note(id="n1", title="before"))
    async with unit(store, Gate(is_open_to_the_end=False)) as work:
        note = await have(store)
        before = loaded(note)
        note.title = "after"
        await work[Note].update(note)
        with pytest.raises(OutcomeUnknownError, match="too late"):
            await work.commit()
        assert loaded(note) == before
    assert (await have(store)).title == "after"
