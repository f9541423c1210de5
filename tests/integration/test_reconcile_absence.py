"""What is absent and yet no delete: reads that are too old, rows that were never sent, ids that cannot be asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from core.cosmos.client import open_cosmos
from core.domain.mappings import ACCOUNTS
from core.errors import TransientError
from core.phases import Phase
from tests.integration.mirror_steps import Steps
from tests.integration.reconcile_steps import HOUR, counts, hard_delete, lagging, mirrored, passed, reconcile
from tests.integration.relay_steps import make_primary, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from changefeed.reconcile_state import Round
    from core.cosmos.client import CosmosStore
    from core.local.cosmos import CosmosServer
    from core.mappings import Mappings
    from core.settings import Settings

_UNTAKE = "UPDATE accounts SET crossfeed_etag = NULL, crossfeed_ts = NULL, crossfeed_lsn = NULL"


@pytest.fixture
def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    return Steps(engine, cosmos, mappings, ACCOUNTS)


@pytest.mark.parametrize("ahead", [0.0, HOUR])
@pytest.mark.parametrize("has_taken", [True, False])
async def test_a_lagging_replica_that_does_not_know_the_document_yet_is_not_believed(  # noqa: PLR0913, PLR0917 - fixtures
    own_cosmos_server: CosmosServer,
    settings: Settings,
    engine: AsyncEngine,
    mappings: Mappings,
    ahead: float,
    has_taken: bool,
) -> None:
    here = settings.model_copy(
        update={"cosmos_endpoint": own_cosmos_server.endpoint, "cosmos_key": SecretStr(own_cosmos_server.key)}
    )
    async with open_cosmos(here) as store:
        await store.provision(mappings)
        steps = Steps(engine, store, mappings, ACCOUNTS)
        await mirrored(steps, "a")
        own_cosmos_server.faults.add(lagging(0))  # from now on replicas remember
        await mirrored(steps, "b", "c")
    if not has_taken:  # as rows are that were published while Postgres was the primary
        async with engine.begin() as connection:
            await connection.exec_driver_sql("SELECT set_config('crossfeed.mirroring', 'on', true)")
            await connection.exec_driver_sql(_UNTAKE)
    async with open_cosmos(here) as other:  # a session that has seen nothing yet
        elsewhere = Steps(engine, other, mappings, ACCOUNTS)
        own_cosmos_server.faults.add(lagging(3))
        own_cosmos_server.faults.remove("lagging-0")
        late = reconcile(elsewhere, here, ahead=ahead)
        assert await late.step(0.3)  # what asks that replica is refused, and asks again
        assert await elsewhere.count("accounts") == 3
        own_cosmos_server.faults.clear()
        assert not await late.step(20.0)
        assert await elsewhere.count("accounts") == 3
        assert (await passed(elsewhere, here)).doubted == 0


async def test_a_row_that_was_never_sent_stays_although_the_primary_was_moved_before(
    steps: Steps, settings: Settings
) -> None:
    await make_primary(steps.engine)
    await run(steps.engine, "INSERT INTO accounts (id) VALUES ('unsent')")
    await make_primary(steps.engine, Phase.DUAL_WRITE_COSMOS_READ)
    assert await passed(steps, settings) == counts(rows=1, doubted=1, kept=1)


@pytest.mark.parametrize("id_", ["", "..", "a/b", "a?b"])
async def test_a_row_whose_id_no_document_can_have_is_kept_and_holds_nobody_up(
    steps: Steps, settings: Settings, id_: str
) -> None:
    await mirrored(steps, "a", "b")
    await hard_delete(steps, "b")
    async with steps.engine.begin() as connection:
        await connection.exec_driver_sql("SELECT set_config('crossfeed.mirroring', 'on', true)")
        row = "INSERT INTO accounts (id, crossfeed_epoch, crossfeed_version) VALUES (%(id)s, 1, 1)"
        await connection.exec_driver_sql(row, {"id": id_})
    assert await passed(steps, settings) == counts(documents=1, rows=3, doubted=2, kept=1, removed=1)


async def test_a_clock_that_steps_back_a_day_does_not_make_a_pass_wait_for_it(steps: Steps, settings: Settings) -> None:
    await mirrored(steps, "a", "b")
    await hard_delete(steps, "b")
    timer = reconcile(steps, settings, reconcile_lag_s=0.3)
    assert await timer.step(0.2)
    await run(steps.engine, "UPDATE crossfeed.reconcile_doubt SET read_at = clock_timestamp() + interval '1 day'")
    assert not await timer.step(20.0)
    assert [await steps.content(id_) is not None for id_ in ("a", "b")] == [True, False]


async def test_a_process_that_stops_in_the_middle_does_not_keep_its_locks(steps: Steps, settings: Settings) -> None:
    await mirrored(steps, "a")
    await hard_delete(steps, "a")
    one = reconcile(steps, settings, reconcile_lease_s=7.0)
    limits: list[str] = []
    save = one._turn.save

    async def looked_at(connection: object, at: Round) -> None:
        limits.append((await connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout")).scalar_one())  # type: ignore[attr-defined]
        await save(connection, at)  # type: ignore[arg-type]

    one._turn.save = looked_at  # type: ignore[method-assign]
    await one.run(containers=["Accounts"])
    assert set(limits) == {"7s"}


async def test_what_was_not_written_down_is_not_gone_on_from_though_it_cannot_be_read_either(
    steps: Steps, settings: Settings
) -> None:
    await mirrored(steps, "a", "b")
    await hard_delete(steps, "b")
    one = reconcile(steps, settings)
    turn, save, load = one._turn, one._turn.save, one._turn.load
    refused: list[str] = []

    async def fails_first(connection: object, at: Round) -> None:
        if (step := f"{at.todo[:1]} {at.step}") not in refused:
            refused.append(step)
            turn.load = unavailable  # type: ignore[method-assign]
            raise TransientError
        await save(connection, at)  # type: ignore[arg-type]

    async def unavailable() -> Round:
        turn.load = load  # type: ignore[method-assign]
        raise TransientError

    begin = turn.begin

    async def begun(*wanted: object, **how: object) -> Round:
        at = await begin(*wanted, **how)  # type: ignore[arg-type]
        turn.save = fails_first  # type: ignore[method-assign]
        return at

    turn.begin = begun  # type: ignore[method-assign]
    done = await one.run(containers=["Accounts"])
    assert done.containers[0].counts == counts(documents=1, rows=2, doubted=1, removed=1)
    assert len(refused) > 4
