"""Lets a process that runs for long do slices of reconcile rounds, where no timer does: hard deletes are in no feed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from changefeed.retrying import tell
from core.waiting import pause

if TYPE_CHECKING:
    import asyncio

    from changefeed.reconcile import Reconcile

SLICE_S: Final = 120.0
"""How long the process keeps its turn, in seconds; then another one may have it."""
LOOK_S: Final = 60.0
"""How often it is asked whether a round is due, in seconds."""


async def reconcile_regularly(reconcile: Reconcile, every_s: float, stop: asyncio.Event) -> None:
    """Do what `Reconcile.step` says is due, until `stop` is set; whatever fails is logged, and tried again later.

    May run in several processes: one of them is at it at a time.

    Args:
        reconcile: the passes.
        every_s: seconds between two rounds, as `reconcile` has it.
        stop: ends the piece at hand; what is not done is gone on with by whoever comes next.

    """
    look_s = min(LOOK_S, every_s)
    goes_on = False
    while not stop.is_set():
        share = 0.1 if goes_on else 1.0
        await pause(look_s * share * random.uniform(0.75, 1.25), stop)  # noqa: S311 - so that processes take turns
        if stop.is_set():
            return
        try:
            goes_on = await reconcile.step(SLICE_S, stop)
        except Exception as error:  # noqa: BLE001 - the outermost loop: the process has other things to do as well
            tell(error, "the reconcile pass", 1)
            goes_on = False
