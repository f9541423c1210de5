"""What the tests of reconcile and of deletes share: a pass without rests, and a replica that lags."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from changefeed.reconcile import Reconcile
from changefeed.reconcile_state import Counts
from core.local.cosmos.faults import ByVersions, Lag, Match, Operation, Rule

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from core.progress import Progress
    from core.settings import Settings
    from tests.integration.mirror_steps import Steps

HOUR = 3600.0


class AfterOnePiece(asyncio.Event):
    """A stop that comes as soon as something was done."""

    asked = 0

    def is_set(self) -> bool:
        self.asked += 1
        return self.asked > 1


def hasty(settings: Settings, **values: Any) -> Settings:
    """Settings of a pass that believes at once and never rests."""
    quick = {"reconcile_lag_s": 0.0, "reconcile_ru_per_second": None, "reconcile_pause_ms": 0}
    return settings.model_copy(update={**quick, **values})


def reconcile(steps: Steps, settings: Settings, *, ahead: float = 0.0, **values: Any) -> Reconcile:
    """Return the pass of somebody whose clock is `ahead` seconds ahead."""
    quick = hasty(settings, **values)
    return Reconcile(steps.engine, steps.store, steps.mappings, quick, clock=lambda: time.time() + ahead)


async def passed(steps: Steps, settings: Settings, **values: Any) -> Counts:
    """Run one pass over the container of `steps`, and return what it counted."""
    report = await reconcile(steps, settings, **values).run(containers=[steps.mapping.container])
    assert report.finished
    [one] = report.containers
    return one.counts


async def run_with(one: Reconcile, step: str, meanwhile: Callable[[], Awaitable[None]]) -> Counts:
    """Run a pass that is interrupted once, in the middle of a step, and resumed after something has happened."""
    stop = asyncio.Event()

    def report(progress: Progress) -> None:
        if progress.step.startswith(step):
            stop.set()

    containers = ["Accounts"]
    assert not (await one.run(report, stop, containers=containers)).finished
    await meanwhile()
    done = await one.run(containers=containers)
    assert done.finished
    return done.containers[0].counts


def legacy(id_: str, **properties: Any) -> dict[str, Any]:
    return {"id": id_, "Email": f"{id_}@example.org", **properties}


async def mirrored(steps: Steps, *ids: str) -> None:
    """Let foreign documents be written and mirrored."""
    for id_ in ids:
        await steps.foreign(legacy(id_))
    await steps.apply(steps.history)


async def hard_delete(steps: Steps, id_: str) -> None:
    await steps.store.container(steps.mapping).delete_item(id_, id_)


def counts(**values: int) -> Counts:
    return Counts(**values)


def lagging(versions: int) -> Rule:
    """Let all reads be answered by a replica that is so many versions behind."""
    return Rule(
        do=Lag(behind=ByVersions(least=versions, most=versions)),
        on=Match(operations=frozenset({Operation.READ, Operation.FEED})),
        name=f"lagging-{versions}",
    )
