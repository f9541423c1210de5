"""Renders what an operator looks at first: the verdict, the two stores, the phase, and how much flows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from core.envelope import Origin
from core.phases import Phase, PhaseState
from core.postgres.dead_letters import Direction
from functions.page.markup import NOTHING, ago, command, commands, joined, note, paragraph, section, table, time_of
from functions.page.plots import lag_plot, rate_plot
from functions.page.problems import Severity, limits_of
from functions.page.spelling import count_of, duration, rate
from functions.phase_way import Way

if TYPE_CHECKING:
    from core.settings import Settings
    from functions.page.look import Look
    from functions.page.overview import NextStep, Overview
    from functions.page.problems import Problem

NAMES: Final = {Direction.TO_COSMOS: "Postgres → Cosmos DB", Direction.TO_POSTGRES: "Cosmos DB → Postgres"}
WHERE: Final = {Direction.TO_COSMOS: "to Cosmos DB", Direction.TO_POSTGRES: "to Postgres"}

MEANINGS: Final = {
    Phase.COSMOS_ONLY: "Cosmos DB takes reads and writes. Nothing crosses.",
    Phase.DUAL_WRITE_COSMOS_READ: "Cosmos DB takes reads and writes, and the mirror keeps Postgres in step.",
    Phase.DUAL_WRITE_POSTGRES_READ: "Postgres takes reads and writes, and the relay keeps Cosmos DB in step.",
    Phase.POSTGRES_ONLY: "Postgres takes reads and writes. Cosmos DB stays as it was; domain events still get there.",
}
_MARKS: Final = {
    # A shape each, not a colour alone.
    None: Markup('<svg class="mark" viewBox="0 0 24 24" aria-hidden="true"><path d="M4 12.5 10 18.5 20.5 6.5"/></svg>'),
    Severity.LOOK: Markup(
        '<svg class="mark" viewBox="0 0 24 24" aria-hidden="true"><path d="M12 3.5v11M12 19v1.5"/></svg>'
    ),
    Severity.BROKEN: Markup(
        '<svg class="mark" viewBox="0 0 24 24" aria-hidden="true"><path d="M5.5 5.5l13 13M18.5 5.5l-13 13"/></svg>'
    ),
}
_ARROWS: Final = {
    Direction.TO_POSTGRES: Markup(
        '<svg viewBox="0 0 120 16" aria-hidden="true"><path d="M2 8H112M104 2l10 6-10 6"/></svg>'
    ),
    Direction.TO_COSMOS: Markup(
        '<svg viewBox="0 0 120 16" aria-hidden="true"><path d="M118 8H8M16 2 6 8l10 6"/></svg>'
    ),
}


def headline(look: Look) -> str:
    """Return the state in a few words: the first thing that is read, also of the browser's tab."""
    count = len(look.problems)
    match look.worst:
        case Severity.BROKEN:
            broken = sum(problem.severity is Severity.BROKEN for problem in look.problems)
            return f"{count_of(broken, 'thing')} {'is' if broken == 1 else 'are'} broken"
        case Severity.LOOK:
            return f"Everything flows; {count_of(count, 'thing')} to look at"
        case _:
            is_alone = look.overview is not None and look.overview.active is None
            return "All is well; nothing crosses in this phase" if is_alone else "Everything flows"


def verdict(look: Look) -> Markup:
    """Render the state, and what to do about each problem."""
    problems = joined(_problem(problem) for problem in look.problems)
    old = NOTHING
    if look.is_old and look.overview is not None:
        old = Markup("<p>Below is what was read last, at {}.</p>").format(time_of(look.overview.at))
    return Markup(
        '<section class="verdict {}" aria-label="State">{}<div><p class="headline">{}</p>{}{}</div></section>'
    ).format(
        look.worst or "ok",
        _MARKS[look.worst],
        headline(look),
        Markup("<ul>{}</ul>").format(problems) if problems else NOTHING,
        old,
    )


def _problem(problem: Problem) -> Markup:
    cure = Markup(" {}").format(command(problem.cure)) if problem.cure else NOTHING
    return Markup('<li class="{}">{}{}</li>').format(problem.severity, problem.what, cure)


def stores(overview: Overview, settings: Settings) -> Markup:
    """Render both stores, which of them is the primary, and what flows between them."""
    primary = overview.standing.row.primary
    return Markup('<section class="stores" aria-label="Stores">{}{}{}</section>').format(
        _store("Cosmos DB", Origin.COSMOS, overview, is_primary=primary is Origin.COSMOS),
        _flow(overview, settings),
        _store("Postgres", Origin.POSTGRES, overview, is_primary=primary is Origin.POSTGRES),
    )


def _store(name: str, store: Origin, overview: Overview, *, is_primary: bool) -> Markup:
    drains = overview.standing.row.state is PhaseState.DRAINING
    if is_primary:
        role = "writes wait: a switch drains" if drains else "takes the writes"
    elif overview.standing.row.phase is Phase.COSMOS_ONLY:
        role = "not in use yet"
    elif overview.standing.row.phase is Phase.POSTGRES_ONLY:
        role = "kept as it was"
    else:
        role = "follows"
    badge = Markup(' <span class="badge">primary</span>') if is_primary else NOTHING
    return Markup('<div class="store {}{}"><b>{}</b>{}<span class="quiet">{}</span></div>').format(
        store.value, " primary" if is_primary else "", name, badge, role
    )


def _flow(overview: Overview, settings: Settings) -> Markup:
    direction = overview.active
    if direction is None:
        return Markup('<div class="flow none"><span class="quiet">nothing crosses</span></div>')
    lag_s = overview.lag_s(direction)
    is_late = lag_s is not None and lag_s > limits_of(overview.triggers, settings)[direction]
    return Markup('<div class="flow {} {}"><b>{}</b>{}<span class="quiet">{}</span></div>').format(
        direction.value,
        "late" if is_late else "",
        "no sample" if lag_s is None else f"{duration(lag_s)} behind",
        _ARROWS[direction],
        rate(overview.series[direction].per_s_now),
    )


def phase(overview: Overview) -> Markup:
    """Render the four phases, and the steps that may come next."""
    standing = overview.standing
    steps = joined(
        Markup('<li{}><span class="number">{}</span> {}</li>').format(
            Markup(' aria-current="step"') if one is standing.row.phase else NOTHING, one.value, one.label
        )
        for one in Phase
    )
    said = Markup('<p>{}</p><p class="quiet">Epoch {}, since {}, opened by {}: {}</p>').format(
        MEANINGS[standing.row.phase], standing.row.epoch, time_of(standing.since), standing.who, standing.why
    )
    ways = joined(_next(step) for step in standing.next_steps)
    if not ways:
        ways = Markup("<p>A switch is under way. {}</p>").format(
            commands(("crossfeed phase status", "crossfeed phase resume", "crossfeed phase cancel"))
        )
    return section("Phase", Markup('<ol class="phases">{}</ol>{}{}').format(steps, said, ways))


def _next(step: NextStep) -> Markup:
    name = "Forwards" if step.way is Way.ADVANCE else "Back"
    return Markup('<p class="next">{} to <b>{}</b>: see what it takes {} then {}</p>').format(
        name, step.to.label, command(step.plan), command(step.command)
    )


def flows(overview: Overview, settings: Settings) -> Markup:
    """Render lag and throughput of a direction that has something to carry, and of the other if it is followed."""
    limits = limits_of(overview.triggers, settings)
    shown = [
        direction
        for direction, series in overview.series.items()
        if direction is overview.active or any(value is not None for value in series.per_s)
    ]
    shown.sort(key=lambda direction: direction is not overview.active)
    return joined(_plots(overview, direction, limits[direction]) for direction in shown)


def _plots(overview: Overview, direction: Direction, limit_s: float) -> Markup:
    series = overview.series[direction]
    is_active = direction is overview.active
    aside = NOTHING if is_active else note("in this phase only looked at, for writes that should not be")
    if all(value is None for value in series.per_s):
        return section(NAMES[direction], paragraph("Nobody has written a sample in the last 15 minutes."), aside)
    lag_s = overview.lag_s(direction)
    lag = "no sample" if lag_s is None else Markup("<b>{}</b> behind").format(duration(lag_s))
    plots = Markup(
        '<div class="plots"><div><p class="figure">{}</p>{}</div>'
        '<div><p class="figure"><b>{}</b> carried</p>{}</div></div>{}'
    ).format(
        lag,
        lag_plot(series.lag_s, limit_s, WHERE[direction]),
        rate(series.per_s_now),
        rate_plot(series.per_s, WHERE[direction]),
        _canaries(overview, direction),
    )
    return section(NAMES[direction], plots, aside)


def _canaries(overview: Overview, direction: Direction) -> Markup:
    """Say what was measured end to end, with each canary to unfold."""
    found = [one for one in overview.canaries if one.direction is direction]
    if not found:
        return NOTHING
    slowest_s = max((one.lag_s for one in found if one.lag_s is not None), default=None)
    took = "none has crossed yet" if slowest_s is None else f"the slowest took {duration(slowest_s)}"
    oldest = max(found, key=lambda one: one.age_s)
    said = f"{count_of(len(found), 'canary', 'canaries')} end to end: {took}; {oldest.part} was last seen"
    rows = [(one.part, ago(one.age_s), "" if one.lag_s is None else duration(one.lag_s)) for one in found]
    return Markup('<details id="canaries-{}"><summary>{} {}</summary>{}</details>').format(
        direction.value, said, ago(oldest.age_s), table("Canaries", ("Part", ">Last seen", ">Took"), rows, "slim")
    )


def figures(overview: Overview) -> Markup:
    """Render what waits, in large figures."""
    backlog = overview.outbox.backlog
    oldest = f"the oldest {duration(backlog.oldest_s)} old" if backlog.oldest_s is not None else "nothing waits"
    parked = overview.outbox.parked + overview.parked
    letters = overview.letters_in_all
    parts = (
        (f"{backlog.messages:,}", "in the outbox", oldest, ""),
        (f"{parked:,}", "parked", "tried again by itself" if parked else "nothing is", ""),
        (
            f"{letters:,}",
            "dead letter" if letters == 1 else "dead letters",
            "somebody has to decide" if letters else "none",
            "look" if letters else "",
        ),
    )
    return Markup('<section class="tiles" aria-label="What waits">{}</section>').format(
        joined(
            Markup('<div class="tile {}"><b>{}</b>{}<span class="quiet">{}</span></div>').format(kind, *said)
            for *said, kind in parts
        )
    )
