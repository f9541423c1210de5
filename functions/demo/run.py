"""Runs the demo from its first write to its verdict.

    load     Cosmos DB alone: legacy documents are written into it with the plain client, so that every awkward spelling
             crosses to the letter, and foreign documents are as they are in life.
    walk     cosmos_only, dual_write_cosmos_read, dual_write_postgres_read, postgres_only, and back, step by step, while
             people go on using the application: they notice nothing of a step but its pause.
    look     after people have stopped: on the way back once while Postgres is the primary, and at the end. Everything
             must have been seen in the other store by observers of their own, then nothing may move, then every
             document is compared.

Relay and processor run all the time, as in life: each has to leave alone what the other one brought.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.crossfeed import Crossfeed
from core.envelope import Origin
from core.phases import Phase
from functions.bootstrap import bootstrap
from functions.demo.export import export
from functions.demo.ledger import Kind, Ledger, other
from functions.demo.load import load
from functions.demo.observers import CosmosObserver, PostgresObserver
from functions.demo.plans import Scene
from functions.demo.recording import Recorder
from functions.demo.silence import Silence, last_message, messages_after
from functions.demo.stores import fetch, prepared_stores
from functions.demo.verdict import Fault, Faults, Verdict, compare
from functions.demo.walk import BACK, THERE, said_of, step
from functions.migrating import migration_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from core.identity import Identity
    from core.migration.switch import Migration
    from core.settings import Settings
    from functions.bootstrap import Application
    from functions.demo.board import Board
    from functions.demo.plans import Plan
    from functions.demo.stores import Stores

NAMES = {Origin.POSTGRES: "Postgres", Origin.COSMOS: "Cosmos DB"}


@dataclass(frozen=True, slots=True)
class Sabotage:
    """What a test does to a store at the worst moment, so that the verdict is seen to find it.

    Args:
        in_silence: called once everybody listens whether anything still moves.
        before_comparison: called before every document is compared.

    Both get the stores, and the store that is primary.

    """

    in_silence: Callable[[Stores, Origin], Awaitable[None]] | None = None
    before_comparison: Callable[[Stores, Origin], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: how long draining after a stage may take, and how long the silence is listened to."""

    drain_s: float = 20.0
    silence_s: float = 1.5


async def run_demo(  # noqa: PLR0913 - what can be chosen
    settings: Settings,
    plan: Plan,
    board: Board,
    *,
    export_to: Path | None = None,
    sabotage: Sabotage | None = None,
    timing: Timing | None = None,
) -> Verdict:
    """Run the demo on two empty stores.

    Args:
        settings: where the stores are.
        plan: which documents are loaded, and what happens to them.
        board: where progress is shown.
        export_to: a directory for both stores' final documents.
        sabotage: what a test does to them.
        timing: how long to wait and to listen.

    Raises:
        CrossfeedError: the demo itself could not go on; what it finds wrong is in the verdict.
        OSError: `export_to` cannot be written.

    """
    started = time.perf_counter()
    try:
        # Nobody pays for request units here, and nobody else is slowed down.
        at_full_speed = settings.model_copy(update={"reconcile_ru_per_second": None, "reconcile_pause_ms": 0})
        async with prepared_stores(at_full_speed, plan.mappings, plan.metadata) as stores:
            demo = _Demo(stores, plan, board, sabotage or Sabotage(), timing or Timing())
            async with demo.everything_running() as migration:
                await demo.play(migration)
            if export_to is not None:
                await export(stores, export_to)
            return await demo.verdict(time.perf_counter() - started)
    except ExceptionGroup as errors:
        raise _first(errors) from errors


class _Demo:
    def __init__(self, stores: Stores, plan: Plan, board: Board, sabotage: Sabotage, timing: Timing) -> None:
        self._stores = stores
        self._plan = plan
        self._board = board
        self._sabotage = sabotage
        self._timing = timing
        self._ledger = Ledger()
        self._faults = Faults()
        self._documents = 0
        self._cosmos_observer = CosmosObserver(stores, self._ledger)
        self._silence = Silence(stores, self._cosmos_observer)

    @asynccontextmanager
    async def everything_running(self) -> AsyncIterator[Migration]:
        """Run relay, processor and observers for as long as the context; yield what moves between phases."""
        stores, stop = self._stores, asyncio.Event()
        async with bootstrap(
            stores.settings, mappings=stores.mappings, engine=stores.engine, store=stores.cosmos
        ) as application:
            self._board.counters = lambda: self._counters(application)
            async with asyncio.TaskGroup() as group:
                group.create_task(application.relay.run(stop))
                group.create_task(application.processor.run(stop))
                watching = [
                    group.create_task(self._cosmos_observer.run()),
                    group.create_task(PostgresObserver(stores, self._ledger).run()),
                ]
                yield migration_of(application)
                stop.set()
                for observer in watching:
                    observer.cancel()

    async def play(self, migration: Migration) -> None:
        """Load, then walk through all phases and back."""
        count = sum(map(len, self._plan.documents.values()))
        message = await last_message(self._stores)
        with self._board.during(
            f"load {count} documents into Cosmos DB, the processor carries them",
            done=lambda: self._ledger.carried / count,
        ):
            await load(self._stores, self._plan.documents, self._ledger)
            await self._carried()
        self._echoes(await messages_after(self._stores, message))
        async with Crossfeed.open(self._stores.settings, self._stores.mappings) as db:
            recorder = Recorder(db, self._stores.mappings, self._ledger)
            await self._walk(migration, Scene(self._stores, recorder, self._ledger))

    async def _walk(self, migration: Migration, scene: Scene) -> None:
        async with self._living(scene):
            await self._visit(scene, Phase.COSMOS_ONLY)
            for phase in THERE:
                await self._step(migration, phase)
                await self._visit(scene, phase)
        await self._look(Origin.POSTGRES)
        message = 0
        async with self._living(scene):
            for phase in BACK:
                message = await last_message(self._stores)
                await self._step(migration, phase)
                await self._visit(scene, phase)
        await self._look(Origin.COSMOS)
        # What the mirror writes must not be captured: it is the only one who writes there since the last step.
        self._echoes(await messages_after(self._stores, message))

    @asynccontextmanager
    async def _living(self, scene: Scene) -> AsyncIterator[None]:
        """Let people use the application for as long as the context, and end what they are doing."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._plan.live(scene, stop))
            yield
            stop.set()

    async def _step(self, migration: Migration, to: Phase) -> None:
        if to is Phase.POSTGRES_ONLY:
            self._ledger.part(time.perf_counter())
        with self._board.during(f"step to {to.label}, people go on") as stage:
            stage.outcome = said_of(await step(migration, to))
        if to is Phase.DUAL_WRITE_POSTGRES_READ:
            self._ledger.rejoin(time.perf_counter())

    async def _visit(self, scene: Scene, phase: Phase) -> None:
        with self._board.during(
            f"{phase.label}: {NAMES[phase.primary]} is the primary", seconds=self._plan.stay_s(phase)
        ):
            await self._plan.visit(scene, phase)

    async def _look(self, primary: Origin) -> None:
        with self._board.during("wait until everything was seen in the other store"):
            await self._carried()
        with self._board.during("listen whether anything still moves", seconds=self._timing.silence_s):
            self._echoes(await self._silence.broken_by(self._timing.silence_s, self._meddle(primary)))
        with self._board.during("compare every document in both stores"):
            if self._sabotage.before_comparison is not None:
                await self._sabotage.before_comparison(self._stores, primary)
            self._documents = await compare(self._stores, self._ledger, self._faults)

    async def verdict(self, seconds: float) -> Verdict:
        """Sum up."""
        async with self._stores.engine.connect() as connection:
            [(dead_lettered,)] = await fetch(connection, "SELECT count(*) FROM crossfeed.dead_letter")
        lags = self._ledger.lags
        return Verdict(
            written=self._ledger.written.total(),
            carried=self._ledger.carried,
            lost=self._faults.count(Fault.LOST),
            stale=self._faults.count(Fault.STALE),
            echoed=self._faults.count(Fault.ECHOED),
            dead_lettered=dead_lettered,
            creates=self._ledger.written[Kind.CREATE],
            updates=self._ledger.written[Kind.UPDATE],
            deletes=self._ledger.written[Kind.DELETE],
            documents=self._documents,
            seconds=round(seconds, 1),
            lag_ms={
                f"{origin.value}_to_{other(origin).value}": {
                    "p50": lags[origin].milliseconds(0.5),
                    "p99": lags[origin].milliseconds(0.99),
                }
                for origin in Origin
            },
        )

    async def _meddle(self, primary: Origin) -> None:
        if self._sabotage.in_silence is not None:
            await self._sabotage.in_silence(self._stores, primary)

    async def _carried(self) -> None:
        """Wait until every write was seen; what is not seen in time will be missing in the comparison."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ledger.settled.wait(), self._timing.drain_s)

    def _echoes(self, moved: set[Identity]) -> None:
        for identity in moved:
            self._faults.add(identity, Fault.ECHOED)

    def _counters(self, application: Application) -> dict[str, str]:
        relay, processor, lags = application.relay.stats, application.processor.stats, self._ledger.lags
        return {
            "written": f"{self._ledger.written.total()}",
            "carried": f"{self._ledger.carried}",
            "on its way": f"{self._ledger.waiting}",
            "relay sent": f"{relay.published}",
            "mirror applied": f"{processor.applied + processor.buried}",
            "dead letters": f"{relay.dead_lettered + processor.dead_lettered + processor.quarantined}",
            **{f"lag from {NAMES[origin]}": f"{lags[origin].milliseconds(0.5):.0f} ms" for origin in Origin},
        }


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error that is no group."""
    for error in errors.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    return errors
