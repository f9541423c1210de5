"""Boots the stores on this machine and keeps them until it is told to stop."""

import asyncio
import json
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import ConfigurationError, CrossfeedError
from core.settings import Settings
from core.telemetry import configure_logging
from functions.cli.running import run_until_stopped

if TYPE_CHECKING:
    from core.local.cosmos.server import CosmosServer
    from core.local.stores import LocalStores

MAX_PORT = 65_535

app = typer.Typer(name="local", help="The stores on this machine, with nothing installed.", invoke_without_command=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print the settings as one JSON object.")]


@app.callback()
def local(
    context: typer.Context,
    directory: Annotated[
        Path | None,
        typer.Option(help="Keep the data of both stores here; without it they are gone at the end.", file_okay=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Boot an embedded Postgres, Cosmos DB and Valkey, and print their addresses as settings.

    Valkey is the cache: it keeps nothing, and is left out where the extra 'cache' is not installed. The lines can be
    read by a shell: `set -a; . settings.env`. Runs until SIGTERM or Ctrl-C. If CROSSFEED_MAPPINGS is set, its
    containers are created.
    """
    if context.invoked_subcommand is not None:
        if directory is not None or as_json:
            msg = f"the options of `{context.invoked_subcommand}` stand behind it"
            raise typer.BadParameter(msg)
        return
    settings = Settings.load()
    configure_logging(settings)

    async def body(stop: asyncio.Event) -> None:
        from core.local.stores import open_local_stores  # noqa: PLC0415 - what `--help` need not load

        async with open_local_stores(directory, with_cache=find_spec("redis") is not None) as stores:
            if settings.mappings:
                await _provision(settings, stores)
            _print(stores.environment, as_json=as_json)
            await stop.wait()

    run_until_stopped(body)


@app.command()
def cosmos(
    *,
    host: Annotated[
        str, typer.Option(help="Listen there: a name or an address of this machine, 0.0.0.0 for all of them.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="0 takes a free one. Microsoft's emulator has 8081.", min=0, max=MAX_PORT)
    ] = 0,
    tls: Annotated[
        bool,
        typer.Option("--tls", help="Speak TLS, with a certificate made at start: ENDPOINT/_explorer/emulator.pem."),
    ] = False,
    file: Annotated[
        Path | None, typer.Option(help="Keep everything in this file; without it, in memory.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Boot an embedded Cosmos DB alone, and print its endpoint and its key as settings.

    The key is the one that Microsoft documents for its emulators; it protects nothing. With --file no acknowledged
    write is lost, however the process ends. Runs until SIGTERM or Ctrl-C.
    """
    configure_logging(Settings.load())

    async def body(stop: asyncio.Event) -> None:
        server = await _start_cosmos(host, port, tls=tls, file=file)
        try:
            if not server.is_loopback:
                print(
                    f"warning: {host} can be reached from other machines, and the key is public: whoever reaches port"
                    f" {server.port} may read and write everything",
                    file=sys.stderr,
                )
            settings = {"CROSSFEED_COSMOS_ENDPOINT": server.endpoint, "CROSSFEED_COSMOS_KEY": server.key}
            _print(settings, as_json=as_json)
            await stop.wait()
        finally:
            await server.stop()

    run_until_stopped(body)


async def _start_cosmos(host: str, port: int, *, tls: bool, file: Path | None) -> "CosmosServer":
    try:
        from core.local.cosmos.server import CosmosServer  # noqa: PLC0415 - what `--help` need not load
        from core.local.cosmos.storage.file import FileInUseError, StorageError  # noqa: PLC0415 - as above
        from core.local.cosmos.wire.listening import BadHostError, ListenError  # noqa: PLC0415 - what `--help` need not load
    except ImportError as error:
        msg = f"the embedded Cosmos DB needs the extra 'local': pip install 'crossfeed[local]' ({error})"
        raise ConfigurationError(msg) from error
    server = CosmosServer(host, port, tls=tls, file=file)
    try:
        await server.start()
    except FileInUseError as error:
        raise CrossfeedError(str(error)) from error
    except (BadHostError, StorageError) as error:
        raise ConfigurationError(str(error)) from error
    except ListenError as error:
        raise CrossfeedError(str(error)) from error
    return server


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
