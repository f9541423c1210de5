"""Lists, shows, replays and discards what could not be applied."""

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from core.errors import CrossfeedError
from core.printable import printable
from core.settings import Settings
from functions.cli.letter_view import (
    facts_of_parked,
    line_of,
    line_of_parked,
    print_json,
)
from functions.cli.moments import MOMENT_HELP, parse_moment
from functions.cli.options import AsJson, loaded
from functions.cli.running import run
from functions.letter_facts import facts_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime, timedelta

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.postgres.dead_letter_search import Found, Selection, StoredLetter
    from core.postgres.dead_letters import Direction
    from core.postgres.parked_list import Parked
    from functions.letters import Act, Report

app = typer.Typer(
    name="dead-letters",
    help="What could not be applied, in either direction, with its reason.",
    no_args_is_help=True,
)


def parse_direction(label: str) -> "Direction":
    """Read a direction from an option."""
    from core.postgres.dead_letters import Direction  # noqa: PLC0415 - what `--help` need not load

    try:
        return Direction(label)
    except ValueError:
        msg = f"{label!r} is none of {', '.join(Direction)}"
        raise typer.BadParameter(msg) from None


Numbers = Annotated[
    list[int] | None, typer.Argument(metavar="NUMBER", help="The letters' numbers.", show_default=False)
]
OfDirection = Annotated[
    Any,
    typer.Option("--direction", parser=parse_direction, metavar="to_cosmos|to_postgres", help="Where it was going."),
]
OfKind = Annotated[str | None, typer.Option("--kind", help="refused, event, late_write, rogue_write, …")]
OfEntity = Annotated[str | None, typer.Option("--entity", help="The entity type.")]
OfId = Annotated[str | None, typer.Option("--id", help="The document's id.")]
ByReason = Annotated[str | None, typer.Option("--reason", help="A part of the reason, in any case.")]
Since = Annotated[
    Any, typer.Option("--since", parser=parse_moment, metavar="MOMENT", help=f"Last refused since then: {MOMENT_HELP}.")
]
All = Annotated[bool, typer.Option("--all", help="All of them; without it something has to be named.")]
Limit = Annotated[int | None, typer.Option("--limit", help="At most so many, the oldest first.", min=1)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, say what would be done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("list")
def list_(  # noqa: PLR0913 - one per option
    *,
    direction: OfDirection = None,
    kind: OfKind = None,
    entity: OfEntity = None,
    id_: OfId = None,
    reason: ByReason = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(help="At most so many, the oldest first.", min=1)] = 100,
    as_json: AsJson = False,
) -> None:
    """List dead letters, without their documents."""
    settings = loaded()
    selection = _selection(None, direction, kind, entity, id_, reason, since)
    found, letters = run(_list(settings, selection, limit))
    if as_json:
        print_json({"count": found.count, "letters": [facts_of(letter) for letter in letters]})
        return
    for letter in letters:
        print(line_of(letter))
    if found.count > len(letters):
        print(f"{found.count - len(letters)} more; see --limit")


@app.command()
def parked(
    *,
    entity: OfEntity = None,
    id_: OfId = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 100,
    as_json: AsJson = False,
) -> None:
    """List what is no dead letter yet: it did not arrive, or a handler failed at it; it is tried again by itself."""
    waiting = run(_parked(loaded(), entity, id_, limit))
    if as_json:
        print_json({"parked": [facts_of_parked(item) for item in waiting]})
        return
    for item in waiting:
        print(line_of_parked(item))


@app.command()
def show(
    number: Annotated[int, typer.Argument(help="The letter's number.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Print one dead letter with the document or event that it holds."""
    settings = loaded()
    letter, document = run(_show(settings, number))
    facts = facts_of(letter)
    if as_json:
        print_json({**facts, "document": orjson.Fragment(document) if document is not None else None})
        return
    for name, value in facts.items():
        print(f"{name}: {printable(str(value))}")
    if document is not None:
        print("\n".join(map(printable, document.split("\n"))))


@app.command()
def replay(  # noqa: PLR0913 - one per option
    numbers: Numbers = None,
    *,
    direction: OfDirection = None,
    kind: OfKind = None,
    entity: OfEntity = None,
    id_: OfId = None,
    reason: ByReason = None,
    since: Since = None,
    everything: All = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Try dead letters again.

    What was going to Cosmos DB is parked once more and due at once: the relay sends the document's current state, or
    the event in front of the later ones that still wait. Refused again, it is a dead letter again. A document that was
    going to Postgres is read from Cosmos DB by its key and mirrored, while Cosmos DB is the primary; an event at which
    a handler failed (its reference is HANDLER:EVENT) is parked and due, and the processes with that handler try it.
    """
    from functions.letters import Act  # noqa: PLC0415 - what `--help` need not load

    settings = loaded()
    selection = _selection(numbers, direction, kind, entity, id_, reason, since, everything=everything)
    _act(Act.REPLAY, settings, selection, limit, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command()
def discard(  # noqa: PLR0913 - one per option
    numbers: Numbers = None,
    *,
    direction: OfDirection = None,
    kind: OfKind = None,
    entity: OfEntity = None,
    id_: OfId = None,
    reason: ByReason = None,
    since: Since = None,
    everything: All = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete dead letters, and with them what they hold. One that is renewed meanwhile stays."""
    from functions.letters import Act  # noqa: PLC0415 - what `--help` need not load

    settings = loaded()
    selection = _selection(numbers, direction, kind, entity, id_, reason, since, everything=everything)
    _act(Act.DISCARD, settings, selection, limit, dry_run=dry_run, yes=yes, as_json=as_json)


def _selection(  # noqa: PLR0913, PLR0917 - one per option
    numbers: list[int] | None,
    direction: "Direction | None",
    kind: str | None,
    entity: str | None,
    id_: str | None,
    reason: str | None,
    since: "datetime | timedelta | None",
    *,
    everything: bool = True,
) -> "Selection":
    from core.postgres.dead_letter_search import Selection  # noqa: PLC0415 - what `--help` need not load

    selection = Selection(numbers or None, direction, kind, entity, id_, reason, since)
    if selection == Selection() and not everything:
        msg = "name letters by their numbers or by an option, or say --all"
        raise typer.BadParameter(msg)
    return selection


def _act(  # noqa: PLR0913 - one per option
    act: "Act",
    settings: Settings,
    selection: "Selection",
    limit: int | None,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    found, _ = run(_list(settings, selection, 1))
    meant = min(found.count, limit or found.count)
    if meant and not dry_run and not yes:
        typer.confirm(f"{act.value} {meant} dead letter{'s' * (meant != 1)}?", abort=True, err=True)
    report = run(_do(act, settings, selection, found, limit, dry_run))
    if selection.numbers is not None and limit is None:
        report.miss(selection.numbers)
    if as_json:
        print_json({"dry_run": dry_run, **report.facts})
    else:
        for number, why in report.refused.items():
            print(f"{number}: not done: {printable(why)}")
        print(f"{'would ' * dry_run}{act.value} {len(report.done)}, not {len(report.refused)}")
    raise typer.Exit(1 if report.refused else 0)


@asynccontextmanager
async def _opened(settings: Settings) -> "AsyncIterator[AsyncEngine]":
    from core.postgres.engine import open_engine  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.failures import translated  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.schema import check_schema  # noqa: PLC0415 - what `--help` need not load

    async with open_engine(settings) as engine:
        with translated("reading dead letters"):
            async with engine.connect() as connection:
                await check_schema(connection)
            yield engine


async def _list(settings: Settings, selection: "Selection", limit: int) -> "tuple[Found, list[StoredLetter]]":
    from core.postgres.dead_letter_search import count, find  # noqa: PLC0415 - what `--help` need not load

    async with _opened(settings) as engine, engine.connect() as connection:
        found = await count(connection, selection)
        return found, await find(connection, selection, found.at, limit=limit)


async def _parked(settings: Settings, entity: str | None, id_: str | None, limit: int) -> "list[Parked]":
    from core.postgres.parked_list import list_parked  # noqa: PLC0415 - what `--help` need not load

    async with _opened(settings) as engine, engine.connect() as connection:
        return await list_parked(connection, entity=entity, id_=id_, limit=limit)


async def _show(settings: Settings, number: int) -> "tuple[StoredLetter, str | None]":
    from core.postgres.dead_letter_search import Selection, read_document  # noqa: PLC0415 - what `--help` need not load

    _, letters = await _list(settings, Selection(numbers=[number]), 1)
    if not letters:
        msg = f"there is no dead letter {number}"
        raise CrossfeedError(msg)
    async with _opened(settings) as engine, engine.connect() as connection:
        return letters[0], await read_document(connection, number)


async def _do(  # noqa: PLR0913, PLR0917 - one per option
    act: "Act", settings: Settings, selection: "Selection", found: "Found", limit: int | None, dry_run: bool
) -> "Report":
    from functions.bootstrap import Application, bootstrap  # noqa: PLC0415 - what `--help` need not load
    from functions.letters import act_on  # noqa: PLC0415 - what `--help` need not load

    opened: list[Application] = []
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(_opened(settings))

        async def application() -> Application:
            if not opened:
                opened.append(await stack.enter_async_context(bootstrap(settings, engine=engine)))
            return opened[0]

        return await act_on(act, engine, selection, found.at, limit, application, dry_run=dry_run)
