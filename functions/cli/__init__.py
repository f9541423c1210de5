"""The command `crossfeed`: one typer application, each group of commands in a module of its own."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import CrossfeedError
from functions.cli import (
    backfill,
    completion,
    dead_letters,
    demo,
    deploying,
    doctor,
    erase,
    local,
    outbox,
    phase,
    processes,
    reconcile,
    settings,
    status,
    validate,
)
from functions.cli.exit_codes import EVERY, VERBS, code_of
from functions.cli.next_steps import next_step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer.models import CommandInfo, TyperInfo

app = typer.Typer(
    name="crossfeed",
    help="""Keeps PostgreSQL and Azure Cosmos DB in step, and moves applications between them without losing a write.

    Settings come from the environment (CROSSFEED_POSTGRES_DSN, CROSSFEED_COSMOS_ENDPOINT, CROSSFEED_COSMOS_KEY,
    CROSSFEED_COSMOS_DATABASE, CROSSFEED_MAPPINGS, …); crossfeed settings prints all of them, crossfeed doctor looks
    whether they do.
    """,
    epilog=EVERY.text(),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_SET_UP, _RUN, _LOOK, _MOVE, _MEND, _HERE = (
    "Set up",
    "Run",
    "See how it stands",
    "Move",
    "Find and mend what differs",
    "On this machine",
)
app.command(rich_help_panel=_SET_UP)(processes.migrate)
app.command(rich_help_panel=_SET_UP)(deploying.grant)
app.command(rich_help_panel=_SET_UP)(deploying.provision)
app.command(rich_help_panel=_RUN)(processes.relay)
app.command(rich_help_panel=_RUN)(processes.mirror)
app.command(rich_help_panel=_LOOK)(status.status)
app.command(rich_help_panel=_LOOK)(doctor.doctor)
app.command(rich_help_panel=_LOOK)(settings.settings)
app.add_typer(phase.app, rich_help_panel=_MOVE)
app.command(rich_help_panel=_MOVE)(backfill.backfill)
app.command(rich_help_panel=_MEND)(validate.validate)
app.command(rich_help_panel=_MEND)(validate.repair)
app.command(rich_help_panel=_MEND)(reconcile.reconcile)
app.command(rich_help_panel=_MEND)(erase.erase)
app.add_typer(dead_letters.app, rich_help_panel=_MEND)
app.add_typer(outbox.app, rich_help_panel=_MEND)
app.command(rich_help_panel=_HERE)(demo.demo)
app.add_typer(local.app, rich_help_panel=_HERE)
app.command(rich_help_panel=_HERE)(completion.completion)


def verbs(of: typer.Typer = app, before: tuple[str, ...] = ()) -> Iterator[tuple[str, CommandInfo | TyperInfo]]:
    """Yield every verb by the words that name it; a group that is a verb itself comes before those in it."""
    for command in of.registered_commands:
        assert command.callback is not None
        yield " ".join((*before, command.name or command.callback.__name__.replace("_", "-"))), command
    for group in of.registered_groups:
        assert group.typer_instance is not None
        words = (*before, str(group.typer_instance.info.name))
        if group.typer_instance.registered_callback is not None:
            yield " ".join(words), group
        yield from verbs(group.typer_instance, words)


for _name, _verb in verbs():
    _verb.epilog = VERBS.get(_name, EVERY).text()


def _version(wanted: bool) -> None:
    if wanted:
        print(importlib.metadata.version("crossfeed"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Run the command line; what Crossfeed raises on purpose becomes one line on stderr and an exit code."""
    # CROSSFEED_MAPPINGS may name a module of the working directory, as with `python -m`.
    sys.path.insert(0, "")
    try:
        app(prog_name="crossfeed")  # however it was started: the shells' completion asks for this name
    except CrossfeedError as error:
        print(f"error: {error}", file=sys.stderr)
        if (after := next_step(error, next(iter(sys.argv[1:]), ""))) is not None:
            print(f"next: {after}", file=sys.stderr)
        sys.exit(code_of(error))
