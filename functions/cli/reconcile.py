"""Finds deletes and changes that the change feed did not show, by comparing all documents with all rows."""

import dataclasses
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from core.settings import Settings
from functions.cli.options import AsJson, loaded
from functions.cli.progress import print_line, showing
from functions.cli.running import run_interruptible

if TYPE_CHECKING:
    from changefeed.reconcile import ReconcileReport
    from changefeed.reconcile_state import ContainerReport


def reconcile(
    *,
    container: Annotated[
        list[str] | None, typer.Option("--container", help="Only this container; may be given several times.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look at everything, and change no row.")] = False,
    max_removed_share: Annotated[
        float | None,
        typer.Option(
            help="Remove none where more than this share of a container's rows has no document"
            " (CROSSFEED_RECONCILE_MAX_REMOVED_SHARE).",
            min=0,
            max=1,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring both stores into step where the change feed could not: hard deletes, and what was lost on the way.

    While Cosmos DB is the primary, rows whose documents are gone are removed (after two reads a lag window apart), and
    documents without their row are mirrored. While Postgres is, its rows are published again. Beside live traffic, in
    small pieces, within CROSSFEED_RECONCILE_RU_PER_SECOND. If it is interrupted, run it again: it goes on.
    """
    settings = loaded()
    if max_removed_share is not None:
        settings = settings.model_copy(update={"reconcile_max_removed_share": max_removed_share})
    try:
        done = run_interruptible(_reconcile(settings, container or None, dry_run=dry_run))
    except typer.Exit:
        print_line("interrupted; run it again: it goes on where it was")
        raise
    if as_json:
        print(orjson.dumps(_facts(done)).decode())
        return
    for one in done.containers:
        print(_line(one, dry_run=dry_run))


async def _reconcile(settings: Settings, containers: list[str] | None, *, dry_run: bool) -> "ReconcileReport":
    from changefeed.reconcile import Reconcile  # noqa: PLC0415 - what `--help` need not load
    from core.postgres.rights import Process  # noqa: PLC0415 - what `--help` need not load
    from functions.bootstrap import bootstrap  # noqa: PLC0415 - what `--help` need not load

    async with AsyncExitStack() as stack:
        application = await stack.enter_async_context(bootstrap(settings, process=Process.MIRROR))
        progress = stack.enter_context(showing())
        parts = application.engine, application.store, application.mappings, settings
        one = Reconcile(*parts, notices=application.notices)
        return await one.run(progress, containers=containers, dry_run=dry_run)


def _facts(done: "ReconcileReport") -> dict[str, object]:
    return {
        "dry_run": done.dry_run,
        "containers": [{"container": one.container, **dataclasses.asdict(one.counts)} for one in done.containers],
    }


def _line(one: "ContainerReport", *, dry_run: bool) -> str:
    counts = one.counts
    would = "would be " if dry_run else ""
    did = (
        (counts.removed, "removed"),
        (counts.healed, "published again"),
        (counts.applied, "given to the mirror"),
    )
    notes = (
        (counts.found, "found after all"),
        (counts.behind, "left to the next pass (a replica lags)"),
        (counts.kept, "kept (changed meanwhile, or never sent)"),
        (counts.recent, "still under way"),
        (counts.unmapped, "of a type that nobody mapped"),
        (counts.unreadable, "with a key that no row can have"),
        (counts.orphans, "documents without a row, left alone"),
        (counts.ahead, "AHEAD of their rows: see crossfeed outbox resync"),
    )
    parts = [f"{counts.documents:,} documents, {counts.rows:,} rows"]
    parts += [f"{count:,} {would}{what}" for count, what in did if count]
    parts += [f"{count:,} {what}" for count, what in notes if count]
    return f"{one.container}: {'; '.join(parts)}" + ("" if len(parts) > 1 else "; in step")
