"""Looks, before a step, whether anything would refuse it, and says for each check what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.migration.checks import Asked, Check, found
from core.migration.preflight_cosmos import ask_cosmos
from core.migration.preflight_parity import ask_parity
from core.migration.preflight_postgres import ask_postgres

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.migration.checks import PreflightOptions
    from core.migration.parity import Parity
    from core.phases import Phase, PhaseRow
    from core.progress import Progress
    from core.settings import Settings


async def preflight(  # noqa: PLR0913, PLR0917 - what a step is made of
    engine: AsyncEngine,
    store: CosmosStore,
    mappings: Mappings,
    settings: Settings,
    phase: PhaseRow,
    to: Phase,
    options: PreflightOptions,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    on_parity: Callable[[Parity], None] = lambda _: None,
) -> list[Check]:
    """Ask everything that can be asked without changing anything; a store that does not answer is a check that failed.

    The check `parity` compares both stores as validation does: it is the verification of a live system that precedes a
    drain. It is asked last, and only where nothing else refuses the step: it is the one that takes long.

    Args:
        engine: from core.postgres.engine.open_engine.
        store: the opened Cosmos DB database.
        mappings: whose tables and containers.
        settings: the limits (`relay_max_lag_s`, `mirror_max_lag_s`, …).
        phase: the recorded phase.
        to: the phase to step to.
        options: the operator's word.
        progress: told how far the comparison is.
        on_parity: told what the comparison found, if there was one.

    Returns:
        All checks in a fixed order, those that are fine as well.

    """
    asked = Asked(engine, store, mappings, settings, phase, to, options)
    checks = [_order(asked), *await ask_postgres(asked), *await ask_cosmos(asked)]
    if all(check.ok for check in checks):
        checks += await ask_parity(asked, progress, on_parity)
    return checks


def _order(asked: Asked) -> Check:
    here, to = asked.step
    problems = [] if abs(to - here) == 1 else [f"{to.label} is not a neighbour of the recorded phase {here.label}"]
    return found("order", problems, f"{here.label} to {to.label}", "step through: crossfeed phase advance, or back")
