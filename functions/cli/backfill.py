"""Fills the other store with everything that is there already, beside live traffic."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from core.migration.backfill_state import Target
from core.settings import Settings
from functions.cli.options import AsJson, loaded
from functions.cli.progress import print_line, showing
from functions.cli.running import run_interruptible

if TYPE_CHECKING:
    from core.migration.backfill import BackfillReport


def backfill(
    *,
    to: Annotated[Target, typer.Option("--to", help="The store that is filled.")],
    entity: Annotated[
        list[str] | None, typer.Option("--entity", help="Only this entity type; may be given several times.")
    ] = None,
    ru_per_second: Annotated[
        float | None,
        typer.Option(help="Request units a second that may be used (CROSSFEED_BACKFILL_RU_PER_SECOND).", min=1),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew, rather than go on where another run was interrupted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Give every document to Postgres, or every row and tombstone to Cosmos DB, from the primary to the other store.

    In small pieces, within CROSSFEED_BACKFILL_RU_PER_SECOND, slower where Postgres is slow, and not at all while the
    live path lags by more than CROSSFEED_BACKFILL_MAX_LAG_S. Live writes win every race. To Postgres in the phases
    cosmos_only and dual_write_cosmos_read, and in dual_write_postgres_read what is missing there; to Cosmos DB in
    dual_write_postgres_read and postgres_only. If it is interrupted, run it again: it goes on.
    """
    settings = loaded()
    if ru_per_second is not None:
        settings = settings.model_copy(update={"backfill_ru_per_second": ru_per_second})
    try:
        done = run_interruptible(_backfill(settings, to, entity or None, restart=restart))
    except typer.Exit:
        print_line("interrupted; run it again: it goes on where it was")
        raise
    print(orjson.dumps(done.facts()).decode() if as_json else _line(done))


async def _backfill(settings: Settings, to: Target, entities: list[str] | None, *, restart: bool) -> "BackfillReport":
    from core.migration.backfill import Backfill  # noqa: PLC0415 - what `--help` need not load
    from functions.bootstrap import bootstrap  # noqa: PLC0415 - what `--help` need not load
    from outbox.publisher import Publisher  # noqa: PLC0415 - what `--help` need not load

    async with AsyncExitStack() as stack:
        application = await stack.enter_async_context(bootstrap(settings))
        progress = stack.enter_context(showing())
        parts = application.engine, application.store, application.mappings, application.settings
        publisher = Publisher(*parts, ru_per_second=settings.backfill_ru_per_second)
        return await Backfill(*parts, publisher, to).run(progress, entities=entities, restart=restart)


def _line(done: "BackfillReport") -> str:
    counts = done.counts
    notes = (
        (counts.refused, "refused, see crossfeed dead-letters"),
        (counts.parked, "parked until what they depend on has arrived"),
    )
    parts = [f"{counts.read:,} looked at, {counts.sent:,} given to it"]
    parts += [f"{count:,} {what}" for count, what in notes if count]
    return f"backfill to {done.target.value}: {'; '.join(parts)}"
