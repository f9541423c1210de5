"""Shows the log, sends it again, and changes into how many slots it is cut."""

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from core.settings import Settings
from functions.cli.moments import MOMENT_HELP, parse_moment
from functions.cli.options import AsJson, loaded
from functions.cli.outbox_resync import resync
from functions.cli.running import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime, timedelta

    from sqlalchemy.ext.asyncio import AsyncEngine

    from outbox.replay import Replay
    from outbox.status import OutboxStatus

app = typer.Typer(
    name="outbox",
    help="The log of what is on its way to Cosmos DB.",
    no_args_is_help=True,
)

app.command()(resync)

Since = Annotated[Any, typer.Option(parser=parse_moment, metavar="MOMENT", help=f"From then on: {MOMENT_HELP}.")]


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show what has not been sent, the age of the oldest, slots with owners and lag, and the partitions."""
    settings = loaded()
    found = run(_status(settings))
    if as_json:
        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    from functions.cli.outbox_view import show_status  # noqa: PLC0415 - what `--help` need not load

    show_status(found)


@app.command()
def replay(
    *,
    since: Since,
    events: Annotated[bool, typer.Option("--events", help="Domain events as well, not states alone.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send again what was written since. Relays may run, and do it.

    Of documents the current state is sent; those that hold it already are left alone. Refused if messages that old were
    dropped (CROSSFEED_OUTBOX_KEEP_S).
    """
    done = run(_replay(loaded(), since, events=events, dry_run=dry_run))
    if as_json:
        print(orjson.dumps(done).decode())
        return
    what = f"{done.messages} messages of {done.documents} documents since {done.since.isoformat(timespec='seconds')}"
    print(f"{what} {'would be sent again' if dry_run else 'are sent again'} ({' and '.join(done.kinds)})")


@app.command()
def slots(
    to: Annotated[int, typer.Option("--to", help="So many for states, and as many for events.", min=1, max=1024)],
    *,
    as_json: AsJson = False,
) -> None:
    """Change into how many slots the log is cut, so that more relays can share it (each takes whole slots).

    Relays must run: everything is sent first, while writers wait, for a second at most. If that is not enough, nothing
    is changed.
    """
    run(_slots(loaded(), to))
    if as_json:
        print(orjson.dumps({"states": to, "events": to}).decode())
        return
    print(f"the log is cut into {to} slots for states and {to} for events")


@asynccontextmanager
async def _database(settings: Settings) -> "AsyncIterator[AsyncEngine]":
    from core.postgres.engine import open_engine  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.schema import check_schema  # noqa: PLC0415 - what `--help` need not load

    async with open_engine(settings) as engine:
        async with engine.connect() as connection:
            await check_schema(connection)
        yield engine


async def _status(settings: Settings) -> "OutboxStatus":
    from outbox.status import read_status  # noqa: PLC0415 - what `--help` need not load

    async with _database(settings) as engine, engine.connect() as connection:
        return await read_status(connection)


async def _replay(settings: Settings, since: "datetime | timedelta", *, events: bool, dry_run: bool) -> "Replay":
    from outbox.replay import replay  # noqa: PLC0415 - what `--help` need not load

    async with _database(settings) as engine:
        return await replay(engine, since, events=events, dry_run=dry_run)


async def _slots(settings: Settings, to: int) -> None:
    from outbox.slot_change import change_slots  # noqa: PLC0415 - what `--help` need not load

    async with _database(settings) as engine:
        await change_slots(engine, to)
