"""The command `crossfeed`: one typer application, each group of commands in a module of its own."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated

import typer

from core.errors import ConfigurationError, CrossfeedError
from functions.cli import backfill, dead_letters, demo, erase, local, outbox, phase, processes, reconcile, validate

EXIT_CODES = """
Exit codes: 0 done, or stopped by a signal; 1 failed (demo: something was lost, stale, echoed or dead-lettered);
2 a setting, an option, a mapping or a schema is wrong and nothing was done; 130 interrupted by
Ctrl-C (backfill, demo, reconcile, repair, validate, outbox resync).
"""

app = typer.Typer(
    name="crossfeed",
    help=f"""Keeps PostgreSQL and Azure Cosmos DB in step, and moves applications between them without losing a write.

    Settings come from the environment (CROSSFEED_POSTGRES_DSN, CROSSFEED_COSMOS_ENDPOINT, CROSSFEED_COSMOS_KEY,
    CROSSFEED_COSMOS_DATABASE, CROSSFEED_MAPPINGS, …).

    {EXIT_CODES}""",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(processes.migrate)
app.command()(processes.relay)
app.command()(processes.mirror)
app.command()(reconcile.reconcile)
app.command()(validate.validate)
app.command()(validate.repair)
app.command()(erase.erase)
app.command()(backfill.backfill)
app.command()(demo.demo)
app.add_typer(phase.app)
app.add_typer(outbox.app)
app.add_typer(dead_letters.app)
app.add_typer(local.app)


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
        app()
    except CrossfeedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)
