"""The processes that move documents, and the migration that has to come before them."""

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import orjson
import structlog
import typer

from core.errors import ConflictError
from core.phases import Phase
from core.postgres.schema import REVISION
from core.settings import Settings
from core.telemetry import configure_logging
from functions.cli.options import AsJson, loaded
from functions.cli.running import run, run_until_stopped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from typing import Any

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.phases import PhaseRow
    from functions.bootstrap import Application

log = structlog.get_logger()


def parse_phase(label: str) -> Phase:
    """Read a phase from an option."""
    try:
        return Phase.named(label)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def migrate(
    initial_phase: Annotated[
        Phase | None,
        typer.Option(
            parser=parse_phase,
            metavar="NAME",
            help="The phase to begin in, such as dual_write_postgres_read; only while no step was ever made.",
        ),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Create or upgrade the schema `crossfeed` in Postgres. Your own tables are migrated by you.

    A new schema begins in the phase cosmos_only. Running it again changes nothing.
    """
    row = run(_migrate(loaded(), initial_phase))
    if as_json:
        facts = {"revision": REVISION, "phase": row.phase.label, "epoch": row.epoch, "state": row.state.value}
        print(orjson.dumps(facts).decode())
        return
    print(f"schema crossfeed is current; phase {row.phase.label}, epoch {row.epoch}")


async def _migrate(settings: Settings, initial_phase: Phase | None) -> "PhaseRow":
    from core.postgres.engine import open_engine  # noqa: PLC0415 - what `--help` need not load
    from functions.schema import upgrade  # noqa: PLC0415 - what `--help` need not load

    async with open_engine(settings) as engine:
        await upgrade(engine)
        return await _begin_in(engine, initial_phase)


async def _begin_in(engine: "AsyncEngine", initial: Phase | None) -> "PhaseRow":
    from core.postgres.phases import open_phase, read_phase  # noqa: PLC0415 - what `--help` need not load

    async with engine.connect() as connection:
        row = await read_phase(connection)
        steps = (await connection.exec_driver_sql("SELECT count(*) FROM crossfeed.phase_history")).scalar_one()
    if initial is not None and initial is not row.phase:
        if steps > 1:
            msg = (
                f"the recorded phase is {row.phase.label} and steps were made already, so --initial-phase comes too"
                " late; use: crossfeed phase advance, or back"
            )
            raise ConflictError(msg)
        row = await open_phase(engine, initial, who="crossfeed migrate", why="initial phase")
    return row


def relay() -> None:
    """Carry what is committed in Postgres to Cosmos DB, until SIGTERM or Ctrl-C.

    Idle while Cosmos DB is the primary, so it may run in every phase.
    """

    async def body(stop: asyncio.Event) -> None:
        from core.postgres.dead_letters import Direction  # noqa: PLC0415 - what `--help` need not load
        from core.postgres.rights import Process  # noqa: PLC0415 - what `--help` need not load
        from functions.bootstrap import bootstrap  # noqa: PLC0415 - what `--help` need not load
        from functions.endpoints import serving  # noqa: PLC0415 - what `--help` need not load
        from functions.page.own_page import page_of_relay  # noqa: PLC0415 - what `--help` need not load
        from functions.readiness import Readiness  # noqa: PLC0415 - what `--help` need not load
        from functions.sampling import of_relay, sampling  # noqa: PLC0415 - what `--help` need not load

        async with bootstrap(Settings.load(), process=Process.RELAY) as application:
            parts = application.engine, application.store, application.relay
            readiness = Readiness(application.settings, *parts, cache=application.cache_stats)
            async with (
                serving(application.settings, readiness, page_of_relay(application, readiness)),
                sampling(application.engine, Direction.TO_COSMOS, of_relay(application.relay)),
            ):
                await application.relay.run(stop)

    configure_logging(Settings.load())
    run_until_stopped(body)


def mirror() -> None:
    """Carry what changes in Cosmos DB to Postgres, until SIGTERM or Ctrl-C: the change feed processor.

    Several of them share the feed ranges, and take over from one that ends. While Postgres is the primary it finds
    writes that should not have happened, so it may run in every phase. Beside that one of them looks for hard deletes,
    which are in no feed, every CROSSFEED_RECONCILE_EVERY_S (off: CROSSFEED_MIRROR_RECONCILE=false).
    """

    async def body(stop: asyncio.Event) -> None:
        from core.postgres.dead_letters import Direction  # noqa: PLC0415 - what `--help` need not load
        from core.postgres.rights import Process  # noqa: PLC0415 - what `--help` need not load
        from functions.bootstrap import bootstrap  # noqa: PLC0415 - what `--help` need not load
        from functions.endpoints import serving  # noqa: PLC0415 - what `--help` need not load
        from functions.mirror_readiness import MirrorReadiness  # noqa: PLC0415 - what `--help` need not load
        from functions.page.own_page import page_of_mirror  # noqa: PLC0415 - what `--help` need not load
        from functions.sampling import of_processor, sampling  # noqa: PLC0415 - what `--help` need not load

        async with bootstrap(Settings.load(), process=Process.MIRROR) as application:
            parts = application.engine, application.store, application.processor
            readiness = MirrorReadiness(application.settings, *parts, cache=application.cache_stats)
            async with (
                serving(application.settings, readiness, page_of_mirror(application, readiness)),
                sampling(application.engine, Direction.TO_POSTGRES, of_processor(application.processor)),
                _reconciling(application, stop),
                _with_canaries(application, stop),
            ):
                await application.processor.run(stop)

    configure_logging(Settings.load())
    run_until_stopped(body)


@asynccontextmanager
async def _reconciling(application: "Application", stop: asyncio.Event) -> "AsyncIterator[None]":
    """Do reconcile rounds meanwhile; what takes longer than the rest to end is broken off, and gone on with later."""
    from changefeed.reconcile import Reconcile  # noqa: PLC0415 - what `--help` need not load
    from changefeed.reconcile_regularly import reconcile_regularly  # noqa: PLC0415 - what `--help` need not load

    settings = application.settings
    if not settings.mirror_reconcile:
        yield
        return
    parts = application.engine, application.store, application.mappings, settings
    one = Reconcile(*parts, notices=application.notices)
    async with _beside(reconcile_regularly(one, settings.reconcile_every_s, stop)):
        yield


@asynccontextmanager
async def _with_canaries(application: "Application", stop: asyncio.Event) -> "AsyncIterator[None]":
    """Write the canaries of feed ranges meanwhile."""
    from changefeed.canaries import HOLD_S, FeedCanaries  # noqa: PLC0415 - what `--help` need not load

    settings = application.settings
    parts = application.engine, application.store, application.mappings, application.processor.leases
    hold_s = max(HOLD_S, settings.mirror_max_lag_s)
    async with _beside(FeedCanaries(*parts, settings.canary_every_s, hold_s).run(stop)):
        yield


@asynccontextmanager
async def _beside(work: "Coroutine[Any, Any, None]") -> "AsyncIterator[None]":
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
