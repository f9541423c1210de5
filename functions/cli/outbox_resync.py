"""Makes a database that was restored, or promoted with losses, the valid one again."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from core.settings import Settings
from functions.cli.operator import operator
from functions.cli.options import AsJson, loaded
from functions.cli.progress import showing
from functions.cli.running import run_interruptible

if TYPE_CHECKING:
    from outbox.resync import Resynced


def resync(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look at every document, and change nothing.")] = False,
    nothing_lost: Annotated[
        bool,
        typer.Option(
            "--nothing-lost",
            help="Only let another cluster go on (after pg_upgrade); refused unless the log proves that.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    why: Annotated[str, typer.Option(help="The reason, for the history of epochs.")] = "",
    as_json: AsJson = False,
) -> None:
    """Declare this database the valid one after it was restored, rolled back, or promoted without its last commits.

    Relays of any other database that was sent to this Cosmos DB stop. What Cosmos DB holds and Postgres lost is kept as
    dead letters (kind "lost"); then every row and tombstone is published again, above everything that was ever seen.
    Writers may go on. If it is interrupted, run it again: it goes on.
    """
    if nothing_lost and dry_run:
        msg = "--nothing-lost changes nothing unless it is true; it has no dry run"
        raise typer.BadParameter(msg)
    if not (dry_run or yes):
        question = "Is this the database that is to be the truth, and are the relays of all others stopped?"
        typer.confirm(question, abort=True, err=True)
    settings = loaded()
    if nothing_lost:
        epoch = run_interruptible(_adopt(settings))
        print(orjson.dumps({"epoch": epoch}).decode() if as_json else f"nothing was lost; epoch {epoch} goes on")
        return
    done = run_interruptible(_resync(settings, why or "crossfeed outbox resync", dry_run=dry_run))
    facts = _facts(done)
    print(orjson.dumps(facts).decode() if as_json else " ".join(f"{name}={value}" for name, value in facts.items()))


async def _resync(settings: Settings, why: str, *, dry_run: bool) -> "Resynced":
    from functions.bootstrap import bootstrap  # noqa: PLC0415 - what `--help` need not load
    from outbox.resync import Resync  # noqa: PLC0415 - what `--help` need not load

    async with AsyncExitStack() as stack:
        application = await stack.enter_async_context(bootstrap(settings))
        report = stack.enter_context(showing())
        one = Resync(application.engine, application.store, application.mappings, settings, report)
        return await one.plan() if dry_run else await one.run(who=operator(), why=why)


async def _adopt(settings: Settings) -> int:
    from functions.bootstrap import bootstrap  # noqa: PLC0415 - what `--help` need not load
    from outbox.adopt import adopt  # noqa: PLC0415 - what `--help` need not load

    async with bootstrap(settings) as application:
        return (await adopt(application.engine, application.store, settings)).epoch


def _facts(done: "Resynced") -> dict[str, object]:
    facts: dict[str, object] = {"phase": done.phase.label, "epoch": done.epoch, "published": done.published}
    if done.findings is not None:  # one that was resumed does not look again
        found = done.findings
        facts |= {"documents": found.documents, "lost_states": found.ahead, "orphans": found.orphans}
        facts |= {"unreadable": found.unreadable}
    return facts
