"""Shows and moves the recorded phase."""

import getpass
import json
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from core.phases import Phase, PhaseRow
from core.settings import Settings
from core.telemetry import configure_logging
from functions.cli.processes import parse_phase
from functions.cli.running import run

app = typer.Typer(name="phase", help="Which store is the primary.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def show(as_json: AsJson = False) -> None:
    """Print the recorded phase, its epoch and its state."""
    _print(run(_show(Settings.load())), as_json=as_json)


@app.command("set")
def set_(
    phase: Annotated[Phase, typer.Argument(parser=parse_phase, metavar="NAME", help="A neighbouring phase.")],
    no_live_writers: Annotated[
        bool,
        typer.Option("--no-live-writers", help="Your word that nothing writes to Cosmos DB now; required."),
    ] = False,
    why: Annotated[str, typer.Option(help="The reason, for the history.")] = "",
    as_json: AsJson = False,
) -> None:
    """Step to a neighbouring phase and write its watermarks; the same phase again repeats the watermarks."""
    if not no_live_writers:
        msg = "nothing stops writers of Cosmos DB here: stop them first, then say so with --no-live-writers"
        raise typer.BadParameter(msg)
    settings = Settings.load()
    configure_logging(settings)
    _print(run(_set(settings, phase, why or "crossfeed phase set")), as_json=as_json)


async def _show(settings: Settings) -> PhaseRow:
    from core.postgres.engine import open_engine  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.phases import read_phase  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.schema import check_schema  # noqa: PLC0415 - what `--help` need not load

    async with open_engine(settings) as engine, engine.connect() as connection:
        await check_schema(connection)
        return await read_phase(connection)


async def _set(settings: Settings, phase: Phase, why: str) -> PhaseRow:
    from core.migration.switch import switch_phase  # noqa: PLC0415 - what `--help` need not load
    from functions.bootstrap import bootstrap  # noqa: PLC0415 - what `--help` need not load

    async with AsyncExitStack() as stack:
        application = await stack.enter_async_context(bootstrap(settings))
        return await switch_phase(
            application.engine,
            application.store,
            application.mappings,
            phase,
            who=getpass.getuser(),
            why=why,
            watermark_ttl_s=settings.tombstone_ttl_s,
        )


def _print(row: PhaseRow, *, as_json: bool) -> None:
    facts = {"phase": row.phase.label, "epoch": row.epoch, "state": row.state.value, "primary": row.primary.value}
    print(json.dumps(facts) if as_json else " ".join(f"{name}={value}" for name, value in facts.items()))
