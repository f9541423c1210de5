"""Shows how everything stands: what the status page shows, in a terminal or for a script."""

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from functions.cli.exit_codes import ExitCode
from functions.cli.options import AsJson, loaded
from functions.cli.running import run_interruptible

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings
    from functions.page.look import Look

_WIDTH = 160
"""Of lines that go to a file or a pipe, in characters."""


def status(
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2)] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Show phase, lag, throughput, backlog, who carries, dead letters, parity and the last switch. Changes nothing.

    With --watch and --json, one object a line.
    """
    settings = loaded()
    is_ok = run_interruptible(_show(settings, every if watch else None, as_json=as_json))
    raise typer.Exit(ExitCode.DONE if is_ok else ExitCode.FAILED)


async def _show(settings: "Settings", every: float | None, *, as_json: bool) -> bool:
    from core.postgres.engine import open_engine  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.failures import translated  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.schema import check_schema  # noqa: PLC0415 - what `--help` need not load
    from functions.page.problems import Severity  # noqa: PLC0415 - what `--help` need not load

    async with open_engine(settings) as engine:
        with translated("checking the schema"):
            async with engine.connect() as connection:
                await check_schema(connection)
        with ExitStack() as stack:
            say = _json if as_json else _View(stack, is_live=every is not None).show
            while True:
                look = await _look(engine, settings, is_patient=every is not None)
                say(look)
                if every is None:
                    return look.worst is not Severity.BROKEN
                await asyncio.sleep(every)


async def _look(engine: "AsyncEngine", settings: "Settings", *, is_patient: bool) -> "Look":
    """Look once; who watches wants to see that Postgres is away, and when it is back.

    Raises:
        StoreUnavailableError: Postgres did not answer, and nobody watches.

    """
    from core.errors import StoreUnavailableError  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.failures import translated  # noqa: PLC0415 - what `--help` need not load
    from functions.page.look import Look  # noqa: PLC0415 - what `--help` need not load
    from functions.page.overview import read_overview  # noqa: PLC0415 - what `--help` need not load
    from functions.page.problems import problems_of, unreachable  # noqa: PLC0415 - what `--help` need not load
    from functions.probing import TIMEOUT_S  # noqa: PLC0415 - what `--help` need not load

    try:
        with translated("reading how everything stands"):
            async with asyncio.timeout(TIMEOUT_S if is_patient else None), engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                overview = await read_overview(connection)
    except (StoreUnavailableError, TimeoutError) as error:
        if not is_patient:
            raise
        why = str(error) or f"Postgres does not answer within {TIMEOUT_S:.0f} s"
        return Look(None, (unreachable(why),), is_old=True)
    return Look(overview, problems_of(overview, settings))


def _json(look: "Look") -> None:
    print(orjson.dumps(look.facts()).decode(), flush=True)


class _View:
    """Prints a look, in the place of the one before where a terminal can do that."""

    def __init__(self, stack: ExitStack, *, is_live: bool) -> None:
        from rich.console import Console  # noqa: PLC0415 - what `--help` need not load
        from rich.live import Live  # noqa: PLC0415 - what `--help` need not load

        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, width=_WIDTH)
        self._live = None
        if is_live and self._console.is_terminal:
            live = Live(console=self._console, screen=True, auto_refresh=False, vertical_overflow="crop")
            self._live = stack.enter_context(live)

    def show(self, look: "Look") -> None:
        from functions.cli.status_view import seen  # noqa: PLC0415 - what `--help` need not load

        if self._live is not None:
            self._live.update(seen(look), refresh=True)
        else:
            self._console.print(seen(look))
