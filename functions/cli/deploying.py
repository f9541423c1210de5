"""Prepares what the processes run on, each with no more than it needs: rights in Postgres, containers in Cosmos DB."""

import json
import uuid
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import ConfigurationError, TransientError
from core.settings import Settings
from functions.cli.options import AsJson, loaded
from functions.cli.running import run

if TYPE_CHECKING:
    from core.mappings import Mappings

_PROCESSES = ("relay", "mirror", "functions", "application")
_PAUSE_S = 1.0


def grant(
    role: Annotated[str, typer.Argument(help="The role of Postgres, as it is spelled in the catalogue.")],
    processes: Annotated[
        list[str], typer.Argument(metavar="PROCESS…", help=f"What runs under it: {', '.join(_PROCESSES)}.")
    ],
    entra: Annotated[
        uuid.UUID | None,
        typer.Option(
            metavar="OBJECT_ID",
            help="Object id of the managed identity that the role is for: it is created if it is not there"
            " (Azure Database for PostgreSQL).",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the statements, and connect to nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give a role exactly the rights that these processes need, on the schema `crossfeed` and on the mapped tables.

    Whatever else the role had in the schema is taken from it. Run it as the tables' owner, after `crossfeed migrate`,
    and again after a migration or with a new mapping; running it again changes nothing.
    """
    settings = loaded()
    if unknown := [name for name in processes if name not in _PROCESSES]:
        raise typer.BadParameter(f"no process is called {unknown[0]!r}; there are {', '.join(_PROCESSES)}")
    mappings = settings.load_mappings()
    done = run(_grant(settings, role, processes, mappings, entra, dry_run=dry_run))
    if as_json:
        print(json.dumps({"role": role, "processes": processes, "dry_run": dry_run, "statements": done}))
    elif dry_run:
        print("".join(f"{statement};\n" for statement in done), end="")
    else:
        print(f"role {role} has the rights of {', '.join(processes)}")


async def _grant(  # noqa: PLR0913 - what can be chosen
    settings: Settings,
    role: str,
    processes: list[str],
    mappings: "Mappings",
    entra: uuid.UUID | None,
    *,
    dry_run: bool,
) -> list[str]:
    from core.postgres import grants  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.engine import open_engine  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.failures import translated  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.rights import Process  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.schema import check_schema  # noqa: PLC0415 - what `--help` need not load

    named = [Process[name.upper()] for name in processes]
    if dry_run:
        created = [] if entra is None else grants.creation(role, entra)
        return [*created, *grants.statements(role, named, mappings)]
    async with open_engine(settings) as engine:
        with translated(f"granting rights to {role}"):
            async with engine.begin() as connection:
                await check_schema(connection)
                return await grants.grant(connection, role, named, mappings, entra)


def provision(
    *,
    functions: Annotated[
        bool, typer.Option("--functions", help="With the container of the triggers' leases, for Azure Functions.")
    ] = False,
    throughput: Annotated[
        int | None,
        typer.Option(help="RU/s of each mapped container that is created; else the account decides.", min=400),
    ] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for a Cosmos DB that does not answer yet.", min=0)] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the containers, and connect to nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array, as deploy/bicep reads it.")] = False,
) -> None:
    """Create the database and the containers that are not there: those of the mappings, and Crossfeed's own.

    What is there stays as it is; processes say at their start what is wrong with it. This needs the account's key (or
    an emulator): with Microsoft Entra ID alone containers are created by a template, which reads what
    `--dry-run --json` prints.
    """
    settings = loaded()
    mappings = settings.load_mappings()
    plans = _plans(settings, mappings, functions=functions)
    if not dry_run:
        run(_provision(settings, mappings, throughput, functions=functions, wait_s=wait))
    if as_json:
        print(json.dumps(plans, indent=2))
        return
    for plan in plans:
        print(f"{plan['name']}: partition key {', '.join(plan['paths'])}, default TTL {plan['defaultTtl']}")


def _plans(settings: Settings, mappings: "Mappings", *, functions: bool) -> list[dict[str, Any]]:
    from core.cosmos.containers import OwnContainers, planned  # noqa: PLC0415 - what `--help` need not load

    own = OwnContainers.of(settings)
    return [plan.facts() for plan in planned(mappings, [*own, own.leases] if functions else own)]


async def _provision(
    settings: Settings, mappings: "Mappings", throughput: int | None, *, functions: bool, wait_s: float
) -> None:
    from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_fixed  # noqa: PLC0415 - as below

    from core.cosmos.client import open_cosmos  # noqa: PLC0415 - what `--help` need not load

    async for attempt in AsyncRetrying(
        retry=retry_if_exception(_is_away), stop=stop_after_delay(wait_s), wait=wait_fixed(_PAUSE_S), reraise=True
    ):
        with attempt:
            async with open_cosmos(settings) as store:
                await store.provision(mappings, throughput, leases=functions)


def _is_away(error: BaseException) -> bool:
    """Whether nobody answered, as against somebody who refused."""
    from core.cosmos.failures import DRIVER_ERRORS  # noqa: PLC0415 - what `--help` need not load

    unanswered = isinstance(error.__cause__, DRIVER_ERRORS) and getattr(error.__cause__, "status_code", None) is None
    return isinstance(error, TransientError) or (isinstance(error, ConfigurationError) and unanswered)
