"""The checks of a step that Postgres answers: schema, triggers, rights, who runs, what waits and what is put aside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from core.errors import ConfigurationError
from core.migration.checks import (
    CLOSING_COSMOS,
    REOPENING_COSMOS,
    TO_COSMOS,
    TO_POSTGRES,
    Asked,
    Check,
    answered,
    found,
)
from core.phases import Phase
from core.postgres.armed import trigger_problems
from core.postgres.engine import fetch
from core.postgres.failures import translated
from core.postgres.fit import check_fit
from core.postgres.rights import tables_not_owned
from core.postgres.schema import check_schema
from core.postgres.switch_record import pending_switch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    Question = Callable[[AsyncConnection, Asked], Awaitable[Check]]

BOUND: Final = 10_000
"""Up to how many messages of the slots at one cursor are counted."""

# Who is alive takes what nobody has with its next heartbeat: the barrier waits for that.
_RELAYS = """
    SELECT count(*) FROM crossfeed.relay r WHERE crossfeed.is_alive(r.expires_at, r.lease_s)
"""
# Of each mapped container: processors that read its feed, how long ago both a canary was written and its trigger had a
# batch, and for how long a canary is unseen.
_MIRRORS = """
    SELECT container,
        (SELECT count(*) FROM crossfeed.feed_processor p
            WHERE 'mirror/' || container = ANY (p.feeds) AND crossfeed.is_alive(p.expires_at, p.lease_s)),
        (SELECT extract(epoch FROM clock_timestamp() - least(max(k.at), max(t.at)))::float8
            FROM crossfeed.canary k JOIN crossfeed.trigger_progress t USING (container)
            WHERE k.direction = 'to_postgres' AND container = wanted.container),
        (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(unseen_since)), 0)::float8 FROM crossfeed.canary k
            WHERE k.direction = 'to_postgres' AND k.container = wanted.container)
    FROM unnest(%(containers)s::text[]) AS wanted(container) ORDER BY container
"""
_UNSENT = """
    SELECT coalesce(sum(messages), 0)::bigint,
        coalesce(extract(epoch FROM clock_timestamp() - min(oldest)), 0)::float8
    FROM crossfeed.unsent(%(bound)s)
"""
_PARKED = {
    TO_POSTGRES: """
        SELECT entity || ' ' || id || ': ' || reason FROM crossfeed.mirror_parked ORDER BY first_at LIMIT 6
    """,
    TO_COSMOS: "SELECT entity || ' ' || id || ': ' || reason FROM crossfeed.parked ORDER BY first_at LIMIT 6",
}
_LETTERS = """
    SELECT count(*), coalesce(min(entity || ' ' || id || ': ' || reason), '') FROM crossfeed.dead_letter
    WHERE direction = %(direction)s
"""
_DIRECTIONS = {TO_POSTGRES: "to_postgres", CLOSING_COSMOS: "to_postgres", TO_COSMOS: "to_cosmos"}
_NEEDS_MIRROR = (TO_POSTGRES, TO_COSMOS)
_NEEDS_RELAY = (TO_POSTGRES, TO_COSMOS, REOPENING_COSMOS)
_SHOWN = 5


async def ask_postgres(asked: Asked) -> list[Check]:
    """Ask Postgres; where it does not answer, or has no schema of ours, that is the one check."""
    migrations = await answered("migrations", _migrations(asked), "run: crossfeed migrate, and your own migrations")
    if not migrations.ok:
        return [migrations]
    checks = [migrations]
    for name, question in _QUESTIONS.items():
        checks.append(await answered(name, _on_its_own(asked, name, question), "bring Postgres back, and ask again"))
    return checks


async def _on_its_own(asked: Asked, name: str, question: Question) -> Check:
    with translated(f"checking {name}"):
        async with asked.engine.connect() as connection:
            return await question(connection, asked)


async def _migrations(asked: Asked) -> Check:
    problems: list[str] = []
    with translated("checking the schema"):
        async with asked.engine.connect() as connection:
            try:
                await check_schema(connection)
                await check_fit(connection, asked.mappings)
            except ConfigurationError as error:
                problems.append(str(error))
    return found(
        "migrations",
        problems,
        "the schema is current, and every mapping fits its table",
        "run: crossfeed migrate, and your own migrations",
    )


async def _switch(connection: AsyncConnection, _: Asked) -> Check:
    pending = await pending_switch(connection)
    problems = []
    if pending is not None:
        step = f"from {pending.from_phase.label} to {pending.to_phase.label}"
        problems.append(f"switch {pending.id} {step} is {pending.step.value}, begun by {pending.who}")
    return found(
        "pending switch", problems, "none is under way", "run: crossfeed phase resume, or: crossfeed phase cancel"
    )


async def _triggers(connection: AsyncConnection, _: Asked) -> Check:
    return found(
        "triggers",
        await trigger_problems(connection),
        "as the phase wants them",
        "find out who changed them, then call core.postgres.capture.install again in a migration of yours",
    )


async def _rights(connection: AsyncConnection, _: Asked) -> Check:
    foreign = await tables_not_owned(connection)
    role = (await connection.exec_driver_sql("SELECT current_user::text")).scalar_one()
    problems = [f"the role {role} does not own {', '.join(foreign)}"] if foreign else []
    return found(
        "rights",
        problems,
        f"the role {role} owns every captured table",
        "run this command with the role that owns them (CROSSFEED_POSTGRES_DSN): a step locks them, and re-creates"
        " their triggers",
    )


async def _writers(_: AsyncConnection, asked: Asked) -> Check:
    leaves = asked.step == (Phase.COSMOS_ONLY, Phase.DUAL_WRITE_COSMOS_READ)
    problems = []
    if leaves and not asked.options.writers_restarted:
        problems.append("in phase 0 a process may write without Postgres, and no switch could stop it later")
    return found(
        "writers",
        problems,
        "restarted with Postgres, by your word" if leaves else "those of this phase know Postgres",
        "restart every process that writes with CROSSFEED_POSTGRES_DSN set, then say so: --writers-restarted",
    )


async def _relay(connection: AsyncConnection, asked: Asked) -> Check:
    [(alive,)] = await fetch(connection, _RELAYS, {})
    is_needed = asked.step in _NEEDS_RELAY
    problems = ["none is alive"] if not alive and is_needed else []
    said = f"{alive} alive" + ("" if is_needed else ", none needed by this step")
    return found("relay", problems, said, "start: crossfeed relay")


async def _mirror(connection: AsyncConnection, asked: Asked) -> Check:
    most = asked.settings.functions_max_lag_s
    problems, alive = [], 0
    for container, processors, written_s, unseen_s in await _mirrors(connection, asked):
        by_triggers = written_s is not None and written_s <= 2 * most and unseen_s <= most
        if processors or by_triggers:
            alive += 1
        else:
            problems.append(f"nobody reads the feed of {container!r}")
    if asked.step not in _NEEDS_MIRROR:
        said = f"{alive} of {len(asked.mappings.containers)} containers have a live mirror, not needed by this step"
        return found("mirror", [], said, "")
    return found("mirror", problems, "every container has a live one", "start: crossfeed mirror, or the Functions app")


async def _mirrors(connection: AsyncConnection, asked: Asked) -> list[tuple[Any, ...]]:
    return await fetch(connection, _MIRRORS, {"containers": list(asked.mappings.containers)})


async def _lag(connection: AsyncConnection, asked: Asked) -> Check:
    """How old is what waits for the relay; the mirror's lag is asked of Cosmos DB."""
    if asked.step != TO_COSMOS:
        return found("relay lag", [], "not asked: this step does not wait for the relay", "")
    [(messages, oldest_s)] = await fetch(connection, _UNSENT, {"bound": BOUND})
    most = asked.settings.relay_max_lag_s
    said = f"{messages} messages wait, the oldest for {oldest_s:.1f} s"
    problems = [f"{said}, more than {most:.0f}"] if oldest_s > most else []
    return found("relay lag", problems, said, "wait until the relay has caught up: crossfeed outbox status")


async def _parked(connection: AsyncConnection, asked: Asked) -> Check:
    statement = _PARKED.get(asked.step)
    if statement is None:
        return found("parked", [], "not asked: this step waits for nothing that is parked", "")
    rows = [str(row[0]) for row in await fetch(connection, statement, {})]
    problems = rows[:_SHOWN] + (["and more"] if len(rows) > _SHOWN else [])
    return found(
        "parked",
        problems,
        "nothing",
        "remove what they wait for, or let them become dead letters: crossfeed dead-letters list",
    )


async def _dead_letters(connection: AsyncConnection, asked: Asked) -> Check:
    direction = _DIRECTIONS.get(asked.step)
    if direction is None:
        return found("dead letters", [], "not asked: this step leaves none behind", "")
    [(count, example)] = await fetch(connection, _LETTERS, {"direction": direction})
    accepted = asked.options.accept_dead_letters
    said = f"{count} {direction}" + (f", {accepted} accepted" if accepted else "")
    problems = [f"{said}; one of them: {example}"] if count > accepted else []
    return found(
        "dead letters",
        problems,
        said,
        "see crossfeed dead-letters list, then replay or discard them, or say how many may stay:"
        f" --accept-dead-letters {count}",
    )


_QUESTIONS: Final[dict[str, Question]] = {
    "pending switch": _switch,
    "triggers": _triggers,
    "rights": _rights,
    "writers": _writers,
    "relay": _relay,
    "mirror": _mirror,
    "relay lag": _lag,
    "parked": _parked,
    "dead letters": _dead_letters,
}
