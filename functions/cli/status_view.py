"""Draws how everything stands for a terminal, where what comes from elsewhere is never markup or a control code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from core.envelope import Origin
from core.postgres.dead_letters import Direction
from core.printable import printable
from functions.page.problems import Severity
from functions.page.sections import MEANINGS, NAMES, headline
from functions.page.spelling import count_of, duration, moment, rate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from functions.page.look import Look
    from functions.page.overview import Overview

_BARS: Final = "▁▂▃▄▅▆▇█"
_STYLES: Final = {None: "bold green", Severity.LOOK: "bold yellow", Severity.BROKEN: "bold red"}
_LETTERS: Final = 10


def seen(look: Look) -> RenderableType:
    """Return everything, what matters most first."""
    parts: list[RenderableType] = [Text(headline(look), style=_STYLES[look.worst])]
    for problem in look.problems:
        line = Text(f"  {printable(problem.what)}  ", style=_STYLES[problem.severity].removeprefix("bold "))
        parts.append(line.append(problem.cure, style="bold"))
    if look.overview is not None:
        parts += _of(look.overview)
    return Group(*parts)


def _of(overview: Overview) -> Iterator[RenderableType]:
    standing = overview.standing
    yield Text()
    yield _stores(overview)
    yield Text(f"{standing.row.phase.label}, epoch {standing.row.epoch}: {MEANINGS[standing.row.phase]}")
    yield Text(printable(f"since {moment(standing.since)}, by {standing.who}: {standing.why}"), style="dim")
    for step in standing.next_steps:
        yield Text(f"to {step.to.label}: ", style="dim").append(step.plan).append(", then ").append(step.command)
    yield Text()
    for direction, series in overview.series.items():
        if direction is overview.active or any(value is not None for value in series.per_s):
            yield from _plots(overview, direction)
    yield _waits(overview)
    yield _carriers(overview)
    yield from _letters(overview)
    yield from _compared(overview)


def _stores(overview: Overview) -> Text:
    primary = overview.standing.row.primary
    names = {Origin.COSMOS: "Cosmos DB", Origin.POSTGRES: "Postgres"}
    line = Text()
    line.append(names[Origin.COSMOS], style="bold" if primary is Origin.COSMOS else "dim")
    match overview.active:
        case Direction.TO_COSMOS:
            line.append(f"  ◀── {_behind(overview, Direction.TO_COSMOS)} ──  ")
        case Direction.TO_POSTGRES:
            line.append(f"  ── {_behind(overview, Direction.TO_POSTGRES)} ──▶  ")
        case _:
            line.append("  nothing crosses  ", style="dim")
    line.append(names[Origin.POSTGRES], style="bold" if primary is Origin.POSTGRES else "dim")
    return line.append(f"   {names[primary]} is the primary, {overview.standing.row.state.value}", style="dim")


def _behind(overview: Overview, direction: Direction) -> str:
    lag_s = overview.lag_s(direction)
    lag = "no sample" if lag_s is None else f"{duration(lag_s)} behind"
    return f"{lag}, {rate(overview.series[direction].per_s_now)}"


def _plots(overview: Overview, direction: Direction) -> Iterator[RenderableType]:
    series = overview.series[direction]
    aside = "" if direction is overview.active else "  (only looked at in this phase)"
    yield Text(f"{NAMES[direction]}, the last 15 minutes{aside}", style="bold")
    for name, values, spell in (("lag", series.lag_s, duration), ("rate", series.per_s, rate)):
        most = max((value for value in values if value is not None), default=0.0)
        yield Text(f"  {name:<5}").append(spark(values, most), style="cyan").append(f"  at most {spell(most)}")
    canaries = [one for one in overview.canaries if one.direction is direction]
    if canaries:
        oldest_s = max(one.age_s for one in canaries)
        said = f"  {count_of(len(canaries), 'canary', 'canaries')}, the oldest was seen {duration(oldest_s)} ago"
        yield Text(said, style="dim")
    yield Text()


def spark(values: Sequence[float | None], most: float) -> str:
    """Return values as bars of text; what nobody measured is a dot."""
    top = most or 1.0
    return "".join(
        "·" if value is None else _BARS[min(len(_BARS) - 1, int(value / top * len(_BARS)))] for value in values
    )


def _waits(overview: Overview) -> Text:
    backlog = overview.outbox.backlog
    oldest = f", the oldest {duration(backlog.oldest_s)} old" if backlog.oldest_s is not None else ""
    return Text(
        f"{count_of(backlog.messages, 'message')} in the outbox{oldest}; {overview.outbox.parked + overview.parked:,}"
        f" parked; {count_of(overview.letters_in_all, 'dead letter')}"
    )


def _carriers(overview: Overview) -> Table:
    table = _table("process", "kind", "holds")
    for one in overview.holders.relays:
        held = ", ".join(f"{count} for {what}" for what, count in one.holds.items())
        table.add_row(
            _text(one.name), "relay", f"{held} of {len(overview.outbox.slots)} slots" if held else "stands by"
        )
    for one in overview.holders.processors:
        held = ", ".join(f"{feed} {count}" for feed, count in one.holds.items())
        table.add_row(_text(one.name), "mirror", _text(held or "stands by"))
    for trigger in overview.triggers.progress:
        last = f"{trigger.container}, {trigger.documents:,} carried, the last {duration(trigger.age_s)} ago"
        table.add_row(_text(trigger.function), "trigger", _text(last))
    if not table.row_count:
        table.add_row("nobody", "", "neither a relay nor a mirror runs")
    return table


def _letters(overview: Overview) -> Iterator[RenderableType]:
    if not overview.letters:
        return
    table = _table("dead letter", "what", "why", "last")
    for shown in overview.letters[:_LETTERS]:
        letter = shown.letter
        age_s = max(0.0, (overview.at - letter.last_at).total_seconds())
        what = f"{letter.identity.entity} {letter.identity.id}"
        table.add_row(str(letter.number), _text(what), _text(letter.reason), f"{duration(age_s)} ago")
    yield table
    if overview.letters_in_all > _LETTERS:
        yield Text(f"{overview.letters_in_all - _LETTERS:,} more: crossfeed dead-letters list", style="dim")


def _compared(overview: Overview) -> Iterator[RenderableType]:
    if overview.parity:
        table = _table("compared", "rows", "documents", "differences", "when")
        for one in overview.parity:
            differences = Text(f"{one.unaccounted:,}", style="red") if one.unaccounted else Text("none", style="green")
            counts = f"{one.rows:,}", f"{one.documents:,}"
            table.add_row(_text(one.entity), *counts, differences, f"{duration(one.age_s)} ago")
        yield table
    switch = overview.last_switch
    if switch is not None:
        pause = (switch["report"] or {}).get("pause_ms")
        waited = f", writers waited {duration(pause / 1000)}" if pause is not None else ""
        yield _text(f"last switch: {switch['from']} to {switch['to']}, {switch['step']}{waited}, by {switch['who']}")


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _text(what: str) -> Text:
    return Text(printable(what))
