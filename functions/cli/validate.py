"""Compares both stores, and brings into step what differs."""

from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Final

import orjson
import typer

from core.migration.parity import SETTLED
from core.printable import printable
from core.settings import Settings
from functions.cli.options import AsJson, loaded
from functions.cli.progress import print_line, showing
from functions.cli.running import run_interruptible

if TYPE_CHECKING:
    from core.migration.parity import Difference, EntityParity, Parity
    from core.migration.repair import Repaired

MOST: Final = 20_000
"""So many differences of an entity type are repaired in one run."""

Deep = Annotated[bool, typer.Option("--deep", help="Compare contents too, not only stamps, hashes and etags.")]
Entity = Annotated[str | None, typer.Option("--entity", help="Only this entity type.")]
Settle = Annotated[
    float | None,
    typer.Option(help="Seconds that what is under way gets to arrive (CROSSFEED_RECONCILE_LAG_S).", min=0),
]


def validate(
    *,
    deep: Deep = False,
    entity: Entity = None,
    limit: Annotated[int, typer.Option(help="How many differences of an entity type are named.", min=0)] = 100,
    settle: Settle = None,
    as_json: AsJson = False,
) -> None:
    """Compare what both stores hold, beside live traffic, and name every difference. Changes nothing.

    Digests of all rows and all documents first, then what they lead to; what differs is looked at again by key after
    CROSSFEED_RECONCILE_LAG_S. Within CROSSFEED_RECONCILE_RU_PER_SECOND. A few documents that expire within the hour
    are written, so that no replica answers that is behind.
    """
    settings = loaded()
    parity = run_interruptible(_validate(settings, deep=deep, entity=entity, settle=settle, limit=limit))
    if as_json:
        print(orjson.dumps(parity.facts()).decode())
    else:
        _print(parity)
    raise typer.Exit(not parity.is_equal)


def repair(
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without it is only said what would be done.")] = False,
    deep: Deep = False,
    entity: Entity = None,
    settle: Settle = None,
    as_json: AsJson = False,
) -> None:
    """Compare both stores, and make the follower what the primary is where they differ.

    Only in the phases in which one store follows the other. While Cosmos DB is the primary, documents are given to the
    mirror once more, and rows are removed whose documents two reads do not find; while Postgres is, its rows and
    tombstones are sent once more. Through the guarded writes: nothing newer is ever overwritten.
    """
    settings = loaded()
    parity, done = run_interruptible(_repair(settings, apply=apply, deep=deep, entity=entity, settle=settle))
    if as_json:
        print(orjson.dumps({"applied": apply, **done.facts(), "parity": parity.facts()}).decode())
    else:
        _print(parity)
        would = "" if apply else "would be "
        print(f"{done.written:,} {would}brought into step, {done.removed:,} {would}removed")
        for why, count in done.kept.items():
            print(f"{count:,} left as they are: {why}")
        if not apply and not parity.is_equal:
            print_line("nothing was changed; to do it: crossfeed repair --apply")
    raise typer.Exit(apply and bool(done.kept.keys() - {SETTLED}))


async def _validate(
    settings: Settings, *, deep: bool, entity: str | None, settle: float | None, limit: int
) -> "Parity":
    from core.migration.parity_record import record_parity  # noqa: PLC0415 - what `--help` need not load
    from core.migration.validation import validate  # noqa: PLC0415 - what `--help` need not load
    from functions.bootstrap import bootstrap  # noqa: PLC0415 - what `--help` need not load

    async with AsyncExitStack() as stack:
        application = await stack.enter_async_context(bootstrap(settings))
        progress = stack.enter_context(showing())
        parts = application.engine, application.store, application.mappings, settings
        parity = await validate(*parts, deep=deep, entity=entity, settle_s=settle, limit=limit, progress=progress)
        await record_parity(application.engine, parity)
        return parity


async def _repair(
    settings: Settings, *, apply: bool, deep: bool, entity: str | None, settle: float | None
) -> "tuple[Parity, Repaired]":
    from core.migration.repair import repair  # noqa: PLC0415 - what `--help` need not load
    from core.migration.validation import validate  # noqa: PLC0415 - what `--help` need not load
    from functions.bootstrap import bootstrap  # noqa: PLC0415 - what `--help` need not load
    from outbox.publisher import Publisher  # noqa: PLC0415 - what `--help` need not load

    async with AsyncExitStack() as stack:
        application = await stack.enter_async_context(bootstrap(settings))
        progress = stack.enter_context(showing())
        parts = application.engine, application.store, application.mappings, settings
        parity = await validate(*parts, deep=deep, entity=entity, settle_s=settle, limit=MOST, progress=progress)
        publisher = Publisher(*parts)
        unnamed = {name: one.total - len(one.differences) for name, one in parity.entities.items()}
        done = await repair(
            *parts,
            publisher,
            parity.differences,
            dry_run=not apply,
            settle_s=settle,
            unnamed=unnamed,
            notices=application.notices,
        )
        return parity, done


def _print(parity: "Parity") -> None:
    for name, one in parity.entities.items():
        print(_line(name, one))
        for difference in one.differences:
            print(f"  {_named(difference)}")
        if (more := one.total - len(one.differences)) > 0:
            print(f"  … and {more:,} more")


def _line(name: str, one: "EntityParity") -> str:
    parts = [f"{one.rows:,} rows, {one.documents:,} documents"]
    if not one.total and not one.busy:
        return f"{name}: {parts[0]}; equal"
    kinds = Counter(difference.kind.value for difference in one.differences)
    parts += [f"{count:,} {kind}" for kind, count in sorted(kinds.items())]
    parts += [f"{one.accounted:,} of them dead letters"] * bool(one.accounted)
    parts += [f"{one.busy:,} written at every look"] * bool(one.busy)
    return f"{name}: {'; '.join(parts)}"


def _named(one: "Difference") -> str:
    fields = f", in {', '.join(one.fields)}" if one.fields else ""
    letter = f", dead letter {one.letter}" if one.letter is not None else ""
    stamps = f"Postgres {one.postgres or '-'}, Cosmos DB {one.cosmos or '-'}"
    return printable(f"{one.kind.value}: {one.identity.partition_key} {one.identity.id!r} ({stamps}{fields}{letter})")
