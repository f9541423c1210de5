"""The command `crossfeed demo`."""

import dataclasses
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from rich.console import Console

from core.errors import ConfigurationError
from core.settings import Settings
from core.telemetry import configure_logging
from functions.cli.running import run_interruptible

if TYPE_CHECKING:
    from functions.demo.plans import Plan
    from functions.demo.verdict import Verdict

COSMOS_DATABASE = "crossfeed"


def demo(  # noqa: PLR0913 - one per option
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write both stores' final documents: DIR/postgres and DIR/cosmos, a file per container, for diff -r.",
            file_okay=False,
        ),
    ] = None,
    documents: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Carry your own documents both ways instead: a JSON array, as exported from one container.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    container: Annotated[str, typer.Option(metavar="NAME", help="With --documents: the container's name.")] = "",
    partition_key: Annotated[
        str, typer.Option(metavar="/PATH", help="With --documents: its partition key, /tenant or /address/city.")
    ] = "",
    seconds: Annotated[float, typer.Option(help="How long each store is the primary, steps apart.", min=0.5)] = 10.0,
    count: Annotated[
        int, typer.Option("--documents-count", help="How many sample documents are loaded.", min=1)
    ] = 2000,
    seed: Annotated[int, typer.Option(help="Of sample documents and use cases.")] = 1,
) -> None:
    """Watch an application move from Cosmos DB to Postgres and back on this machine, and get a verdict.

    Boots an embedded Postgres and an embedded Cosmos DB, loads legacy documents of an example application into Cosmos
    DB, walks through all four phases and back while people use the application, and compares every document in both
    stores: once while Postgres is the primary, and at the end.

    With --documents your documents go into Cosmos DB, are carried to Postgres, touched there while Cosmos DB is left
    out, and carried back. What one of the stores could not hold is named by its index (from 0) before anything starts.

    Lags run from the acknowledgement of a write to its sight in the other store, the observers' polling included.
    Exported files hold one document to a line, sorted by partition key and id, in the canonical spelling of RFC 8785.
    """
    configure_logging(Settings.load(log_level="error"))
    _make_directory(export)
    plan = _plan(documents, container, partition_key, count=count, seconds=seconds, seed=seed)
    console = Console(stderr=as_json)
    verdict = run_interruptible(_run(plan, console, export))
    if as_json:
        print(orjson.dumps(dataclasses.asdict(verdict), option=orjson.OPT_INDENT_2).decode())
    else:
        from functions.demo.view import show_verdict  # noqa: PLC0415 - what `--help` need not load

        show_verdict(verdict, console)
    raise typer.Exit(0 if verdict.is_clean else 1)


def _plan(  # noqa: PLR0913 - one per option
    documents: Path | None, container: str, partition_key: str, *, count: int, seconds: float, seed: int
) -> "Plan":
    from functions.demo.documents import generic_mapping, read_documents  # noqa: PLC0415 - what `--help` need not load
    from functions.demo.plans import DocumentsPlan, DomainPlan  # noqa: PLC0415 - what `--help` need not load

    if documents is None:
        if container or partition_key:
            msg = "--container and --partition-key go with --documents"
            raise typer.BadParameter(msg)
        try:
            return DomainPlan(count, seconds, seed)
        except ImportError as error:
            msg = f"the demo needs the extra 'local': pip install 'crossfeed[local]' ({error})"
            raise ConfigurationError(msg) from error
    if not container or not partition_key:
        msg = "--documents needs --container and --partition-key"
        raise typer.BadParameter(msg)
    mappings, metadata = generic_mapping(container, partition_key)
    return DocumentsPlan(mappings, metadata, read_documents(documents, next(iter(mappings))))


def _make_directory(export: Path | None) -> None:
    """Find out before anything starts that there is no place for the export."""
    if export is None:
        return
    try:
        export.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"--export {export}: {error.strerror}"
        raise ConfigurationError(msg) from error


async def _run(plan: "Plan", console: Console, export: Path | None) -> "Verdict":
    from core.local.stores import open_local_stores  # noqa: PLC0415 - what `--help` need not load
    from functions.demo.board import Board  # noqa: PLC0415 - what `--help` need not load
    from functions.demo.run import run_demo  # noqa: PLC0415 - what `--help` need not load
    from functions.demo.view import showing  # noqa: PLC0415 - what `--help` need not load

    board = Board()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(showing(board, console))
        with board.during("start Postgres and Cosmos DB on this machine"):
            stores = await stack.enter_async_context(open_local_stores())
        return await run_demo(
            Settings.load(
                postgres_dsn=stores.postgres_dsn,
                postgres_auth="password",
                postgres_pool_size=20,
                cosmos_endpoint=stores.cosmos_endpoint,
                cosmos_key=stores.cosmos_key,
                cosmos_database=COSMOS_DATABASE,
                phase=None,
            ),
            plan,
            board,
            export_to=export,
        )
