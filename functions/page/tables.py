"""Renders what an operator looks up: who carries what, how both stores compare, and the last switch."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from functions.page.markup import NOTHING, ago, command, joined, note, paragraph, section, table
from functions.page.spelling import count_of, duration, moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.migration.parity_record import RecordedParity
    from functions.page.overview import Overview


def carriers(overview: Overview) -> Markup:
    """Render relays and mirrors with what they hold, triggers, and what nobody holds."""
    rows = [*_relays(overview), *_mirrors(overview), *_triggers(overview)]
    if not rows:
        return section("Who carries", paragraph("Neither a relay nor a mirror runs."))
    return section("Who carries", table("Who carries", ("Process", "Kind", "Holds", "Lease"), rows))


def _relays(overview: Overview) -> Iterator[tuple[str | Markup, ...]]:
    slots = len(overview.outbox.slots)
    for one in overview.holders.relays:
        held = " and ".join(f"{count} for {what}" for what, count in one.holds.items())
        holds = f"{sum(one.holds.values())} of {slots} slots" + (f": {held}" if held else ", stands by")
        yield one.name, "relay", holds, duration(one.lease_s)
    if overview.outbox.unowned and overview.holders.relays:
        free = ", ".join(str(slot.slot) for slot in overview.outbox.slots if slot.owner is None)
        yield Markup('<b class="broken">nobody</b>'), "relay", f"slots {free}", ""


def _mirrors(overview: Overview) -> Iterator[tuple[str | Markup, ...]]:
    holders = overview.holders
    for one in holders.processors:
        held = [f"{feed} {count} of {holders.ranges.get(feed, count)}" for feed, count in one.holds.items()]
        yield one.name, "mirror", ", ".join(held) or "stands by", duration(one.lease_s)
    if holders.unowned_ranges and holders.processors:
        free = ", ".join(f"{feed} {count}" for feed, count in holders.unowned_ranges.items())
        yield Markup('<b class="broken">nobody</b>'), "mirror", f"feed ranges: {free}", ""


def _triggers(overview: Overview) -> Iterator[tuple[str | Markup, ...]]:
    for one in overview.triggers.progress:
        holds = Markup("{}, {} carried, the last {}").format(one.container, f"{one.documents:,}", ago(one.age_s))
        yield one.function, "trigger", holds, ""


def parity(overview: Overview) -> Markup:
    """Render the last comparison of both stores."""
    title = "Both stores compared"
    if not overview.parity:
        body = Markup('<p class="quiet">Never compared. {}</p>').format(command("crossfeed validate"))
        return section(title, body)
    rows = [
        (
            one.entity,
            f"{one.rows:,}",
            f"{one.documents:,}",
            _differences(one),
            "contents" if one.deep else "stamps and hashes",
            ago(one.age_s),
        )
        for one in overview.parity
    ]
    headings = ("Entity type", ">Rows", ">Documents", "Differences", "Compared", "When")
    return section(title, table(title, headings, rows))


def _differences(one: RecordedParity) -> Markup:
    parts = [count_of(one.accounted, "dead letter")] * bool(one.accounted)
    parts += [f"{one.busy:,} written meanwhile"] * bool(one.busy)
    notes = note(f"({', '.join(parts)})") if parts else NOTHING
    kind = "broken" if one.unaccounted else "ok"
    figure = f"{one.unaccounted:,}" if one.unaccounted else "none"
    return Markup('<b class="{}">{}</b> {}').format(kind, figure, notes)


def last_switch(overview: Overview) -> Markup:
    """Render the last switch of the primary with its report."""
    title = "Last switch"
    switch = overview.last_switch
    if switch is None:
        return section(title, paragraph("The primary has never been switched."))
    report: dict[str, Any] = switch["report"] or {}
    facts = [
        ("From, to", f"{switch['from']} → {switch['to']}"),
        ("Came to", switch["step"]),
        ("Began", moment(datetime.fromisoformat(switch["started_at"]))),
        ("By", f"{switch['who']}: {switch['why']}"),
    ]
    if report.get("pause_ms") is not None:
        facts.append(("Writers waited", duration(report["pause_ms"] / 1000)))
    if report.get("lag_ms") is not None:
        facts.append(("Caught up in", duration(report["lag_ms"] / 1000)))
    if report.get("parity") is not None:
        facts.append(("Both stores", "the same" if report["parity"].get("equal") else "NOT the same"))
    if report.get("dead_letters"):
        facts.append(("Left behind", count_of(report["dead_letters"], "dead letter")))
    known = joined(Markup("<dt>{}</dt><dd>{}</dd>").format(name, value) for name, value in facts)
    return section(title, Markup("<dl>{}</dl>{}").format(known, _checks(report)))


def _checks(report: dict[str, Any]) -> Markup:
    checks = report.get("checks") or []
    if not checks:
        return NOTHING
    rows = [
        (
            Markup('<b class="{}">{}</b>').format("ok" if one["ok"] else "broken", "ok" if one["ok"] else "refused"),
            one["name"],
            one["detail"],
            one.get("cure") or "",
        )
        for one in checks
    ]
    headings = ("Result", "Check", "Found", "Cure")
    return Markup('<details id="checks"><summary>{}</summary>{}</details>').format(
        count_of(len(checks), "check"), table("Checks of the last switch", headings, rows)
    )
