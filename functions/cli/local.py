"""Boots both stores on this machine and keeps them until it is told to stop."""

import asyncio
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.settings import Settings
from core.telemetry import configure_logging
from functions.cli.running import run_until_stopped

if TYPE_CHECKING:
    from core.local.stores import LocalStores

app = typer.Typer(
    name="local", help="Both stores on this machine, with nothing installed.", invoke_without_command=True
)


@app.callback()
def local(
    context: typer.Context,
    directory: Annotated[
        Path | None,
        typer.Option(help="Keep Postgres' data here; without it both stores are gone at the end.", file_okay=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the settings as one JSON object.")] = False,
) -> None:
    """Boot an embedded Postgres and an embedded Cosmos DB, and print their addresses as settings.

    The lines can be read by a shell: `set -a; . settings.env`. Runs until SIGTERM or Ctrl-C. Cosmos DB's documents
    live in memory. If CROSSFEED_MAPPINGS is set, its containers are created.
    """
    if context.invoked_subcommand is not None:
        return
    settings = Settings.load()
    configure_logging(settings)

    async def body(stop: asyncio.Event) -> None:
        from core.local.stores import open_local_stores  # noqa: PLC0415 - what `--help` need not load

        async with open_local_stores(directory) as stores:
            if settings.mappings:
                await _provision(settings, stores)
            _print(stores.environment, as_json=as_json)
            await stop.wait()

    run_until_stopped(body)


async def _provision(settings: Settings, stores: "LocalStores") -> None:
    from core.cosmos.client import open_cosmos  # noqa: PLC0415 - what `--help` need not load

    mappings = settings.load_mappings()
    there = Settings.load(cosmos_endpoint=stores.cosmos_endpoint, cosmos_key=stores.cosmos_key)
    async with open_cosmos(there) as store:
        await store.provision(mappings)


def _print(environment: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(environment), flush=True)
        return
    lines = (f"{name}={shlex.quote(value)}" for name, value in environment.items())
    print("\n".join(lines), flush=True)
