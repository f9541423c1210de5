"""Shows and moves the recorded phase: which store is the primary."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import orjson
import typer

from core.migration.report import FOREIGN_QUIET_S, PAUSE_BUDGET_S, SETTLE_S, TIMEOUT_S, StepOptions
from core.printable import printable
from core.settings import Settings
from functions.cli.operator import operator
from functions.cli.options import AsJson, loaded
from functions.cli.phase_view import lines_of_history, lines_of_plan, lines_of_report, lines_of_standing
from functions.cli.progress import print_line, showing
from functions.cli.running import run, run_interruptible
from functions.phase_way import Way

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.migration.report import Plan, Report
    from core.migration.switch import Migration
    from core.phases import PhaseRow
    from core.progress import Progress

    Facts = dict[str, Any]
    Tell = Callable[[Progress], None]

T = TypeVar("T")

app = typer.Typer(
    name="phase",
    help="Which store is the primary, and how to move it: a phase at a time, forwards and back.",
    no_args_is_help=True,
)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing: print the plan, and what would refuse it.")]
Why = Annotated[str, typer.Option(help="The reason, for the history.")]
TimeoutS = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", help="For the whole; then all is put back.", min=0.1)
]
PauseBudgetS = Annotated[
    float,
    typer.Option("--pause-budget", metavar="SECONDS", help="For writers to wait; then all is put back.", min=0.1),
]
AcceptDeadLetters = Annotated[
    int, typer.Option("--accept-dead-letters", metavar="N", help="So many may be left behind.", min=0)
]
WritersRestarted = Annotated[
    bool,
    typer.Option(
        "--writers-restarted",
        help="Your word that whatever writes runs with Postgres by now; leaving cosmos_only asks for it.",
    ),
]
ForeignQuietS = Annotated[
    float,
    typer.Option(
        "--foreign-quiet",
        metavar="SECONDS",
        help="For so long nobody but Crossfeed may have written to Cosmos DB before the primary moves, either way.",
        min=0,
    ),
]
SettleS = Annotated[
    float,
    typer.Option(
        "--settle", metavar="SECONDS", help="What takes longer to arrive counts as a difference of the stores.", min=0
    ),
]


@app.command()
def status(as_json: AsJson = False) -> None:
    """Print the phase, the switch that is under way or has crashed, and who may write to Cosmos DB."""
    from functions.phase_facts import read_standing  # noqa: PLC0415 - what `--help` need not load

    _print(run(_asked(loaded(), read_standing)), lines_of_standing, as_json=as_json)


@app.command()
def history(
    *, limit: Annotated[int, typer.Option(help="So many of them.", min=1)] = 20, as_json: AsJson = False
) -> None:
    """Print the steps, the newest first: when, who, why, and how long writers waited."""
    from functions.phase_facts import read_history  # noqa: PLC0415 - what `--help` need not load

    async def question(connection: "AsyncConnection") -> "Facts":
        return {"steps": await read_history(connection, limit)}

    _print(run(_asked(loaded(), question)), lines_of_history, as_json=as_json)


@app.command()
def plan(  # noqa: PLR0913 - one per option
    way: Annotated[Way, typer.Argument(help="Which step.")] = Way.ADVANCE,
    *,
    accept_dead_letters: AcceptDeadLetters = 0,
    writers_restarted: WritersRestarted = False,
    foreign_quiet: ForeignQuietS = FOREIGN_QUIET_S,
    settle: SettleS = SETTLE_S,
    as_json: AsJson = False,
) -> None:
    """Print what a step would do, and what would refuse it; it changes nothing."""
    options = StepOptions(
        accept_dead_letters=accept_dead_letters,
        writers_restarted=writers_restarted,
        foreign_quiet_s=foreign_quiet,
        settle_s=settle,
    )
    _plan(way, options, as_json=as_json)


@app.command()
def advance(  # noqa: PLR0913 - one per option
    *,
    dry_run: DryRun = False,
    timeout: TimeoutS = TIMEOUT_S,
    pause_budget: PauseBudgetS = PAUSE_BUDGET_S,
    accept_dead_letters: AcceptDeadLetters = 0,
    writers_restarted: WritersRestarted = False,
    foreign_quiet: ForeignQuietS = FOREIGN_QUIET_S,
    settle: SettleS = SETTLE_S,
    why: Why = "",
    as_json: AsJson = False,
) -> None:
    """Step to the next phase, towards Postgres. Writers wait in one of the three steps only, from 1 to 2."""
    options = StepOptions(timeout, pause_budget, accept_dead_letters, writers_restarted, foreign_quiet, settle)
    _step(Way.ADVANCE, options, why, dry_run=dry_run, as_json=as_json)


@app.command()
def back(  # noqa: PLR0913 - one per option
    *,
    dry_run: DryRun = False,
    timeout: TimeoutS = TIMEOUT_S,
    pause_budget: PauseBudgetS = PAUSE_BUDGET_S,
    accept_dead_letters: AcceptDeadLetters = 0,
    foreign_quiet: ForeignQuietS = FOREIGN_QUIET_S,
    settle: SettleS = SETTLE_S,
    why: Why = "",
    as_json: AsJson = False,
) -> None:
    """Step to the phase before, towards Cosmos DB, with everything that was written since."""
    options = StepOptions(timeout, pause_budget, accept_dead_letters, foreign_quiet_s=foreign_quiet, settle_s=settle)
    _step(Way.BACK, options, why, dry_run=dry_run, as_json=as_json)


@app.command()
def resume(
    *,
    timeout: TimeoutS = TIMEOUT_S,
    pause_budget: PauseBudgetS = PAUSE_BUDGET_S,
    accept_dead_letters: AcceptDeadLetters = 0,
    as_json: AsJson = False,
) -> None:
    """Go on with a switch whose process has ended in the middle, from where it has come."""
    options = StepOptions(timeout, pause_budget, accept_dead_letters)

    async def going_on(migration: "Migration", _: "PhaseRow", tell: "Tell") -> "Report":
        return await migration.resume(who=operator(), options=options, progress=tell)

    _report(going_on, as_json=as_json)


@app.command()
def cancel(*, why: Why = "", as_json: AsJson = False) -> None:
    """Put everything back that a switch has begun, as long as the primary has not moved. Needs Postgres alone."""
    report = run(_cancel(loaded(), why or "crossfeed phase cancel"))
    _print(report.facts(), lines_of_report, as_json=as_json)


def _plan(way: Way, options: StepOptions, *, as_json: bool) -> None:
    async def planned(migration: "Migration", row: "PhaseRow", _: "Tell") -> "Plan":
        return await migration.plan(way.of(row.phase), options)

    found = run_interruptible(_migrating(loaded(), planned))
    _print(found.facts(), lines_of_plan, as_json=as_json)
    if not found.is_possible:
        raise typer.Exit(1)


def _step(way: Way, options: StepOptions, why: str, *, dry_run: bool, as_json: bool) -> None:
    if dry_run:
        _plan(way, options, as_json=as_json)
        return

    async def stepping(migration: "Migration", row: "PhaseRow", tell: "Tell") -> "Report":
        reason = why or f"crossfeed phase {way}"
        return await migration.step(way.of(row.phase), who=operator(), why=reason, options=options, progress=tell)

    _report(stepping, as_json=as_json)


def _report(body: "Callable[[Migration, PhaseRow, Tell], Awaitable[Report]]", *, as_json: bool) -> None:
    settings = loaded()
    try:
        done = run_interruptible(_migrating(settings, body))
    except typer.Exit:
        print_line("interrupted; crossfeed phase status says how it stands")
        raise
    _print(done.facts(), lines_of_report, as_json=as_json)
    if not done.is_done:
        raise typer.Exit(1)


async def _migrating(settings: Settings, body: "Callable[[Migration, PhaseRow, Tell], Awaitable[T]]") -> T:
    from core.postgres.failures import translated  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.phases import read_phase  # noqa: PLC0415 - what `--help` need not load
    from functions.bootstrap import bootstrap  # noqa: PLC0415 - what `--help` need not load
    from functions.migrating import migration_of  # noqa: PLC0415 - what `--help` need not load

    async with AsyncExitStack() as stack:
        application = await stack.enter_async_context(bootstrap(settings))
        with translated("reading the phase"):
            async with application.engine.connect() as connection:
                row = await read_phase(connection)
        return await body(migration_of(application), row, stack.enter_context(showing()))


async def _cancel(settings: Settings, why: str) -> "Report":
    from core.migration.switch import cancel_pending  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.engine import open_engine  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.failures import translated  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.schema import check_schema  # noqa: PLC0415 - what `--help` need not load

    async with open_engine(settings) as engine:
        with translated("checking the schema"):
            async with engine.connect() as connection:
                await check_schema(connection)
        return await cancel_pending(engine, who=operator(), why=why)


async def _asked(settings: Settings, question: "Callable[[AsyncConnection], Awaitable[Facts]]") -> "Facts":
    from core.postgres.engine import open_engine  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.failures import translated  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.schema import check_schema  # noqa: PLC0415 - what `--help` need not load

    async with open_engine(settings) as engine:
        with translated("reading the phase"):
            async with engine.connect() as connection:
                await check_schema(connection)
                return await question(connection)


def _print(facts: "Facts", lines: "Callable[[Facts], list[str]]", *, as_json: bool) -> None:
    print(orjson.dumps(facts).decode() if as_json else "\n".join(map(printable, lines(facts))))
