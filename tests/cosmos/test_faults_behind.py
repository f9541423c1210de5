"""A replica that is behind never makes a document in the way look like a conflict that it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.cosmos.failures import CosmosUnavailableError
from core.cosmos.guarded import Publish, Superseded, Unchanged
from core.errors import AlreadyExistsError, ConcurrencyError, StoreUnavailableError
from core.identity import Identity
from core.local.cosmos.faults import (
    ByVersions,
    Cut,
    Lag,
    Match,
    Operation,
    Rule,
)
from core.stamp import Stamp
from tests.cosmos.example import LINES, Line
from tests.cosmos.guarded_steps import publish, writer_on
from tests.cosmos.steps import READING, add, line, once, unit

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.local.cosmos.faults import Faults


L1 = Identity.of("Line", ["a"], "l1")


def line_state(version: int) -> Publish:
    content = {"id": "l1", "accountId": "a", "Text": str(version), "Code": "c"}
    return publish(L1, Stamp(1, version), content)


def stay_behind(faults: Faults, versions: int) -> None:
    """Let all reads meet a replica that is so many commits behind, but not behind what is there now."""
    behind = ByVersions(least=versions, most=versions)
    faults.add(Rule(do=Lag(behind=behind), on=Match(operations=READING), name="behind"))


@pytest.mark.parametrize("newer", [0, 1])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("who", ["the same client", "a fresh one"])
async def test_a_replica_that_is_behind_makes_nobody_guilty(  # noqa: PLR0913, PLR0917 - fixtures
    faults: Faults, store: CosmosStore, fresh_store: CosmosStore, who: str, version: int, newer: int
) -> None:
    """The document is there and the replica does not show it: that it is in the way is no other one's unique key."""
    await store.existing_container(LINES)
    stay_behind(faults, 9)
    once(faults, Cut(moment="after"), Operation.CREATE)
    with pytest.raises(CosmosUnavailableError):
        await writer_on(store).write([line_state(version + newer)])
    again = writer_on(store if who == "the same client" else fresh_store)
    for _ in range(3):
        with pytest.raises(CosmosUnavailableError):  # it waits for the replica
            await again.write([line_state(version)])
    faults.remove("behind")
    [outcome] = await again.write([line_state(version)])
    assert isinstance(outcome, Superseded if newer else Unchanged)


@pytest.mark.parametrize("count", [1, 2])
async def test_what_is_added_where_a_tombstone_is_that_the_replica_does_not_show_is_no_conflict(
    faults: Faults, store: CosmosStore, fresh_store: CosmosStore, count: int
) -> None:
    await fresh_store.existing_container(LINES)
    stay_behind(faults, 9)
    entity = line("l1")
    await add(store, entity)
    async with unit(store) as work:
        await work[Line].delete(entity)
        await work.commit()
    lines = [line(f"l{n}", text="again") for n in range(1, count + 1)]
    with pytest.raises(StoreUnavailableError):
        await add(fresh_store, *lines)
    faults.remove("behind")
    await add(fresh_store, *lines)
    assert [each.text for each in await unit(store)[Line].list()] == ["again"] * count


@pytest.mark.parametrize("count", [1, 2])
async def test_a_conflict_is_followed_by_a_read_that_has_seen_what_was_in_the_way(
    faults: Faults, store: CosmosStore, fresh_store: CosmosStore, count: int
) -> None:
    """Whoever reads again and decides again gets on, and does not meet the same old state over and over."""
    await add(store, line("l1"), line("l2"))
    stay_behind(faults, 1)

    async def change(on: CosmosStore, text: str) -> None:
        async with unit(on) as work:
            lines = [await work[Line].get_by_id(f"l{n}", partition_key="a") for n in range(1, count + 1)]
            for each in lines:
                assert each is not None
                await work[Line].update(each.model_copy(update={"text": text}))
            await work.commit()

    await fresh_store.existing_container(LINES)
    faults.remove("behind")
    stay_behind(faults, 1)
    first = await unit(store)[Line].get_by_id("l1", partition_key="a")
    assert first is not None
    await change(store, "first")
    with pytest.raises(ConcurrencyError):
        await change(fresh_store, "second")
    with pytest.raises(StoreUnavailableError, match="404/1002"):
        await change(fresh_store, "second")
    faults.remove("behind")
    await change(fresh_store, "second")
    assert (await unit(store)[Line].get_by_id("l1", partition_key="a")).text == "second"  # type: ignore[union-attr]


async def test_what_is_there_already_is_found_although_no_unique_key_is_broken(store: CosmosStore) -> None:
    await add(store, line("l1"))
    with pytest.raises(AlreadyExistsError):
        await add(store, line("l1"))
