"""A write that Cosmos DB carries out late, after its sender gave it up, changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from core.cosmos.failures import CosmosUnavailableError
from core.envelope import Origin, Ours, author_of
from core.errors import OutcomeUnknownError
from core.local.cosmos.faults import (
    Applied,
    Hold,
    Operation,
)
from core.stamp import Stamp
from tests.cosmos.example import N1, Line
from tests.cosmos.guarded_steps import state, writer_on
from tests.cosmos.steps import add, line, once, raw, unit

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments
    from core.local.cosmos.faults import Faults


@pytest.mark.parametrize("client", ["cut", "timeout"])
@pytest.mark.parametrize("version", [1, 2])
async def test_a_guarded_write_that_comes_late_changes_nothing(  # noqa: PLR0913, PLR0917 - fixtures
    faults: Faults, store: CosmosStore, fresh_store: CosmosStore, documents: CosmosDocuments, version: int, client: Any
) -> None:
    writer = writer_on(store)
    if version > 1:
        await writer.write([state(1, 1)])
    once(faults, Hold(client=client), Operation.CREATE if version == 1 else Operation.REPLACE)
    with pytest.raises(CosmosUnavailableError):
        await writer.write([state(1, version, "late")])
    [held] = faults.held
    await writer_on(fresh_store).write([state(1, version, "late")])
    await writer_on(fresh_store).write([state(1, version + 1, "newer")])
    assert faults.held.release(held.id) == Applied(409 if version == 1 else 412, 0)
    found = await raw(documents, N1)
    assert author_of(found) == Ours(Stamp(1, version + 1), Origin.POSTGRES, deleted=False)
    assert found["Title"] == "newer"


@pytest.mark.parametrize("operation", [Operation.CREATE, Operation.REPLACE, Operation.BATCH])
async def test_a_commit_that_comes_late_changes_nothing(
    faults: Faults, store: CosmosStore, fresh_store: CosmosStore, operation: Operation
) -> None:
    if operation is Operation.REPLACE:
        await add(store, line("l1"))
    once(faults, Hold(), operation)

    async def commit_late() -> None:
        async with unit(store) as work:
            if operation is Operation.REPLACE:
                late = await work[Line].get_by_id("l1", partition_key="a")
                assert late is not None
                await work[Line].update(late.model_copy(update={"text": "late"}))
            else:
                await work[Line].add(line("l1", text="late"))
            if operation is Operation.BATCH:
                await work[Line].add(line("l2"))
            await work.commit()

    with pytest.raises(OutcomeUnknownError):
        await commit_late()
    [held] = faults.held
    async with unit(fresh_store) as work:
        newer = await work[Line].get_by_id("l1", partition_key="a")
        if newer is None:
            await work[Line].add(line("l1", text="newer"))
        else:
            await work[Line].update(newer.model_copy(update={"text": "newer"}))
        await work.commit()
    outcome = faults.held.release(held.id)
    assert isinstance(outcome, Applied)
    assert outcome.status == {Operation.CREATE: 409, Operation.REPLACE: 412, Operation.BATCH: 207}[operation]
    [there] = await unit(fresh_store)[Line].list()
    assert there.text == "newer"
