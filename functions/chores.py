"""What the timers of the Functions app do, each in a bounded time, and safe to be killed at any line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from changefeed.canaries import write_feed_canaries
from changefeed.consumers import Consumers
from changefeed.mirror import Mirror
from changefeed.reconcile import Reconcile
from changefeed.retention import purge
from core.cosmos.documents import CosmosDocuments
from core.errors import CrossfeedError
from core.migration.parity_record import record_parity
from core.migration.validation import validate as compared
from core.phases import Phase, PhaseState
from core.postgres.canaries import containers_due
from core.postgres.mirror_parking import MirrorPatience
from core.settings import DAY
from functions.sampling import sample_triggers
from functions.trigger_batches import phase_of

if TYPE_CHECKING:
    from core.migration.parity import Parity
    from functions.runtime import Runtime

log = structlog.get_logger()

NAMED: Final = 10
"""How many differences of a type are named in the log."""

BUDGET_S: Final = 120.0
"""How long a timer works before it leaves the rest to the next time, in seconds."""

Chore = Callable[["Runtime"], Awaitable[None]]


async def write_all_canaries(runtime: Runtime) -> None:
    """Write the canaries of every mapped container, and record them: they must come out of the triggers.

    In every phase: a trigger tells nothing else of itself, and has to work before the primary may move to its side.
    One that has not come out is left alone as long as it may be on its way.

    Raises:
        CrossfeedError: a store did not take those of a container; those of the others are written.

    """
    async with runtime.application() as application:
        engine, mappings = application.engine, application.mappings
        failed: list[CrossfeedError] = []
        hold_s = application.settings.functions_max_lag_s
        due = await containers_due(engine, mappings.containers, 0, hold_s, always=True)
        for container, held in due.items():
            try:
                await write_feed_canaries(engine, application.store, mappings, container, held)
            except CrossfeedError as error:
                log.warning("canary.not_written", container=container, reason=str(error))
                failed.append(error)
        if failed:
            raise failed[0]


async def retry_parked(runtime: Runtime) -> None:
    """Try again what is parked and due, documents and events.

    Raises:
        CrossfeedError: a store did not answer; what is parked stays so.

    """
    until = time.monotonic() + BUDGET_S
    async with runtime.application() as application:
        reader = CosmosDocuments(application.store, application.mappings)
        mirror = Mirror(application.engine, reader, application.mappings, MirrorPatience.of(application.settings))
        phase = await phase_of(application)
        while await mirror.retry_parked(phase) and time.monotonic() < until:
            phase = await phase_of(application)
        handlers = application.settings.load_consumers()
        if handlers is not None:
            consumers = Consumers(application.engine, handlers, application.settings)
            begun = await consumers.begin()
            while await consumers.idle(begun) and time.monotonic() < until:
                pass
        await sample_triggers(application.engine)


async def reconcile(runtime: Runtime) -> None:
    """Look for documents that foreign writers deleted, where the last time has left off.

    Raises:
        CrossfeedError: a store did not answer; the next time goes on from there.

    """
    async with runtime.application() as application:
        parts = application.engine, application.store, application.mappings, application.settings
        pass_ = Reconcile(*parts, notices=application.notices)
        moved = await pass_.step(BUDGET_S)
        log.info("reconcile.stepped", more=moved)


async def retain(runtime: Runtime) -> None:
    """Purge what only the mirror leaves.

    Raises:
        CrossfeedError: Postgres did not answer.

    """
    async with runtime.application() as application:
        await purge(application.engine, application.settings)


async def validate(runtime: Runtime) -> None:
    """Compare both stores where one follows the other, and say what differs; each time with another type first.

    What there is no time for is left to another time, or to `crossfeed validate`.

    Raises:
        CrossfeedError: a store did not answer.

    """
    async with runtime.application() as application:
        phase = await phase_of(application)
        follows = phase.phase not in {Phase.COSMOS_ONLY, Phase.POSTGRES_ONLY} and phase.state is PhaseState.STEADY
        names = [mapping.name for mapping in application.mappings] if follows else []
        first = int(time.time() // DAY) % max(1, len(names))
        left = [*names[first:], *names[:first]]
        parts = application.engine, application.store, application.mappings, application.settings
        with suppress(TimeoutError):
            async with asyncio.timeout(BUDGET_S):
                while left:
                    parity = await compared(*parts, entity=left[0], limit=NAMED)
                    await record_parity(application.engine, parity)
                    _report(parity)
                    left.pop(0)
        if left:
            log.warning("validate.unfinished", left=left)


def _report(parity: Parity) -> None:
    for entity, one in parity.entities.items():
        if one.total > one.accounted:
            named = [f"{found.kind.value} {found.identity.id}" for found in one.differences]
            log.error("validate.differs", entity=entity, differences=one.total, dead_letters=one.accounted, some=named)
        else:
            log.info("validate.equal", entity=entity, rows=one.rows, dead_letters=one.accounted, busy=one.busy)


CHORES: Final[dict[str, Chore]] = {
    "canary": write_all_canaries,
    "parked": retry_parked,
    "reconcile": reconcile,
    "retention": retain,
    "validate": validate,
}
"""By the name of the timer, which is also that of its schedule: CROSSFEED_CANARY_SCHEDULE."""
