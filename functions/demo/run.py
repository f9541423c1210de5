"""Runs the demo from its first write to its verdict.

    load        Cosmos DB is primary: legacy documents are written into it with the plain client; the processor carries
                them. So every awkward spelling crosses to the letter, and foreign documents are as they are in life.
    Postgres    is primary: use cases for some seconds, while the relay carries them to Cosmos DB.
    Cosmos DB   is primary: use cases for some seconds, while the processor carries them to Postgres.

Relay and processor run all the time, as in life: each has to leave alone what the other one brought. After each stage
everything must have been seen in the other store by observers of their own, then nothing may move, then every document
is compared. The switches are made without live writers: a stage's writers have ended before.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.crossfeed import Crossfeed
from core.envelope import Origin
from core.migration.switch import switch_phase
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

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from core.identity import Identity
    from core.phases import PhaseRow
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
        async with prepared_stores(settings, plan.mappings, plan.metadata) as stores:
            demo = _Demo(stores, plan, board, sabotage or Sabotage(), timing or Timing())
            async with demo.everything_running():
                await demo.play()
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
    async def everything_running(self) -> AsyncIterator[None]:
        """Run relay, processor and observers for as long as the context."""
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
                yield
                stop.set()
                for observer in watching:
                    observer.cancel()

    async def play(self) -> None:
        """Load, then let the plan act in each of its phases."""
        await self._open(Phase.DUAL_WRITE_COSMOS_READ)
        count = sum(map(len, self._plan.documents.values()))
        message = await last_message(self._stores)
        with self._board.during(
            f"load {count} documents into Cosmos DB, the processor carries them",
            done=lambda: self._ledger.carried / count,
        ):
            await load(self._stores, self._plan.documents, self._ledger)
            await self._carried()
        self._echoes(await messages_after(self._stores, message))
        for phase in self._plan.phases:
            await self._stage(await self._open(phase))

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

    async def _open(self, phase: Phase) -> PhaseRow:
        stores = self._stores
        with self._board.during(f"switch: {NAMES[phase.primary]} is primary"):
            return await switch_phase(
                stores.engine, stores.cosmos, stores.mappings, phase, who="crossfeed demo", why="the next stage"
            )

    async def _stage(self, phase: PhaseRow) -> None:
        stores, primary = self._stores, phase.primary
        message = await last_message(stores)
        carrier = "relay" if primary is Origin.POSTGRES else "processor"
        with self._board.during(f"{NAMES[primary]} is primary, the {carrier} runs", seconds=self._plan.seconds):
            async with Crossfeed.open(stores.settings, stores.mappings) as db:
                recorder = Recorder(db, stores.mappings, phase, self._ledger)
                await self._plan.act(Scene(stores, recorder, self._ledger, phase))
        with self._board.during("wait until everything was seen in the other store"):
            await self._carried()
        with self._board.during("listen whether anything still moves", seconds=self._timing.silence_s):
            self._echoes(await self._silence.broken_by(self._timing.silence_s, self._meddle(primary)))
        if primary is Origin.COSMOS:
            # What the mirror writes must not be captured.
            self._echoes(await messages_after(stores, message))
        with self._board.during("compare every document in both stores"):
            if self._sabotage.before_comparison is not None:
                await self._sabotage.before_comparison(stores, primary)
            self._documents = await compare(stores, self._ledger, self._faults)

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
