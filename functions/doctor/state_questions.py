"""What is asked of Postgres about the running of things: the phase, the switch, who carries what, and what is stuck."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from changefeed.progress import read_triggers
from core.migration.parity_record import read_parity
from core.phases import Phase
from core.postgres.canaries import canary_problems, read_canaries
from core.postgres.failures import translated
from core.postgres.switch_record import pending_switch
from functions.doctor.findings import Examined, Finding, Level, answer, skipped
from functions.page.holders import read_holders
from functions.page.problems import limits_of
from functions.phase_facts import read_problems
from outbox.status import OutboxStatus, read_status

if TYPE_CHECKING:
    from core.settings import Settings
    from functions.doctor.patient import Installed
    from functions.page.holders import Holders

_LETTERS: Final = """
    SELECT direction, kind, count(*), extract(epoch FROM clock_timestamp() - min(first_at))::float8
    FROM crossfeed.dead_letter GROUP BY 1, 2 ORDER BY 1, 2
"""
_PARKED: Final = """
    SELECT 'to Cosmos DB', count(*), extract(epoch FROM clock_timestamp() - min(first_at))::float8 FROM crossfeed.parked
    UNION ALL
    SELECT 'to Postgres', count(*), extract(epoch FROM clock_timestamp() - min(first_at))::float8
    FROM crossfeed.mirror_parked
"""
_OLD_S: Final = 3600.0
"""What is parked for longer than an hour waits for somebody."""


async def ask_phase(installed: Installed) -> Examined:
    """Whether the phase is the one that this process may write in, and nobody is left refused by a switch."""
    settings, row = installed.settings, installed.phase
    findings = []
    if settings.phase is not None and settings.phase is not row.phase:
        findings.append(
            Finding(
                f"this process is pinned to {settings.phase.label}, but the phase is {row.phase.label}",
                f"CROSSFEED_PHASE={settings.phase.label}",
                "every write of a process with this setting is refused",
                "unset CROSSFEED_PHASE, or restart the process with the recorded phase",
            )
        )
    with translated("reading the phase"):
        async with installed.engine.connect() as connection:
            problems, pending = await read_problems(connection), await pending_switch(connection)
    for problem in problems:
        what, _, cure = problem.rpartition("; ")
        findings.append(
            Finding(
                what,
                f"switch {pending.id}, begun by {pending.who}" if pending is not None else "the last switch",
                "applications wait, or fail, until it has ended",
                cure,
            )
        )
    return answer("phase", findings, f"{row.phase.label}, epoch {row.epoch}, {row.state.value}")


async def ask_relay(installed: Installed) -> Examined:
    """Whether somebody carries the log to Cosmos DB where this phase wants it, and keeps up."""
    with translated("reading the state of the log"):
        async with installed.engine.connect() as connection:
            status, holders = await read_status(connection), await read_holders(connection)
    findings = [*_unsent(status, installed.settings), *_kept(status)]
    alive = len(holders.relays)
    if installed.phase.phase < Phase.DUAL_WRITE_POSTGRES_READ:
        return answer("relay", findings, f"{alive} alive, none needed in this phase")
    if not alive:
        needs = installed.phase.phase is Phase.DUAL_WRITE_POSTGRES_READ
        findings.insert(
            0,
            Finding(
                "no relay is alive",
                f"{status.unowned} of {len(status.slots)} slots",
                "nothing reaches Cosmos DB" if needs else "no domain event reaches Cosmos DB, and the log only grows",
                "start: crossfeed relay",
                Level.PROBLEM if needs else Level.WARNING,
            ),
        )
    elif status.unowned:
        findings.append(
            Finding(
                f"{status.unowned} of {len(status.slots)} slots have no relay, though {alive} are alive",
                "slots",
                "documents of these slots wait",
                "wait two lease times (CROSSFEED_RELAY_LEASE_S); then see: crossfeed outbox status",
                Level.WARNING,
            )
        )
    return answer("relay", findings, f"{alive} alive, {status.backlog.messages} messages wait")


def _unsent(status: OutboxStatus, settings: Settings) -> list[Finding]:
    oldest_s = status.backlog.oldest_s or 0.0
    if oldest_s <= settings.relay_max_lag_s:
        return []
    return [
        Finding(
            f"the oldest of {status.backlog.messages} unsent messages is {oldest_s:.0f} s old",
            f"the log; CROSSFEED_RELAY_MAX_LAG_S={settings.relay_max_lag_s:g}",
            "Cosmos DB is that far behind, and a step that drains the log would be refused",
            "see: crossfeed outbox status; start more relays, or give Cosmos DB more throughput",
        )
    ]


def _kept(status: OutboxStatus) -> list[Finding]:
    findings = []
    if status.retention_held_s is not None:
        slots = ", ".join(map(str, status.held_by))
        findings.append(
            Finding(
                f"partitions should have been dropped {status.retention_held_s:.0f} s ago",
                f"slots {slots}",
                "the log grows until the disk is full",
                "start: crossfeed relay; see: crossfeed outbox status",
            )
        )
    if status.overflow_bytes:
        findings.append(
            Finding(
                f"{status.overflow_bytes} bytes went to the default partition: no other was made in time",
                "crossfeed.outbox_default",
                "they are dropped late, and partitions are made at a cost to writers",
                "keep a relay running; raise CROSSFEED_OUTBOX_PARTITION_SIZE",
                Level.WARNING,
            )
        )
    return findings


async def ask_mirror(installed: Installed) -> Examined:
    """Whether somebody reads the change feed of every container where this phase wants it."""
    if installed.mappings is None:
        return skipped("mirror", "the mappings are not known")
    if installed.phase.phase in {Phase.COSMOS_ONLY, Phase.POSTGRES_ONLY}:
        return answer("mirror", [], f"not needed in {installed.phase.phase.label}")
    with translated("reading the state of the mirror"):
        async with installed.engine.connect() as connection:
            holders, triggers = await read_holders(connection), await read_triggers(connection)
    most = installed.settings.functions_max_lag_s
    by_triggers = {item.container for item in triggers.canaries if item.unseen_s <= most and item.written_s <= 2 * most}
    unread = [name for name in installed.mappings.containers if not _is_read(holders, name) and name not in by_triggers]
    is_follower = installed.phase.phase is Phase.DUAL_WRITE_COSMOS_READ
    findings = [
        Finding(
            f"nobody reads the change feed of {container!r}",
            f"container {container}",
            "what is written there does not reach Postgres" if is_follower else "rogue and late writes stay unseen",
            "start: crossfeed mirror, or the Functions app",
            Level.PROBLEM if is_follower else Level.WARNING,
        )
        for container in unread
    ]
    findings += [
        Finding(
            f"has failed at one batch for {item.for_s:.0f} s ({item.error}, {item.attempts} attempts)",
            f"function {item.function}",
            "this feed range stands still until the batch goes through",
            "see the function's log; bring back what it fails at",
        )
        for item in triggers.failing
        if item.for_s > most
    ]
    return answer("mirror", findings, f"{len(holders.processors)} processors alive; every container is read")


def _is_read(holders: Holders, container: str) -> bool:
    feed = f"mirror/{container}"
    return bool(holders.processors) and feed in holders.ranges and feed not in holders.unowned_ranges


async def ask_canaries(installed: Installed) -> Examined:
    """Whether what is written on one side comes out on the other, measured end to end."""
    settings, phase = installed.settings, installed.phase.phase
    problems = []
    with translated("reading the canaries"):
        async with installed.engine.connect() as connection:
            canaries = await read_canaries(connection)
            for direction, max_lag_s in limits_of(await read_triggers(connection), settings).items():
                problems += await canary_problems(connection, direction, max_lag_s, settings.canary_every_s)
    findings = [
        Finding(
            problem,
            f"phase {phase.label}",
            "changes may be that old on the other side",
            "start, or look at, the processes of this direction (crossfeed relay, crossfeed mirror) and their logs",
        )
        for problem in problems
    ]
    if not canaries:
        return answer("canaries", findings, f"none are under way in {phase.label}")
    return answer(
        "canaries", findings, f"the oldest of {len(canaries)} is {max(one.age_s for one in canaries):.0f} s old"
    )


async def ask_letters(installed: Installed) -> Examined:
    """Whether something could not be applied, or waits for long."""
    with translated("reading the dead letters"):
        async with installed.engine.connect() as connection:
            letters = [tuple(row) for row in await connection.exec_driver_sql(_LETTERS)]
            parked = [tuple(row) for row in await connection.exec_driver_sql(_PARKED)]
    findings = [
        Finding(
            f"{count} dead letters of the kind {kind}, the oldest {oldest_s:.0f} s old",
            f"direction {direction}",
            "what they hold did not arrive, and they keep the primary from moving",
            f"see: crossfeed dead-letters list --direction {direction} --kind {kind}; then replay or discard them",
        )
        for direction, kind, count, oldest_s in letters
    ]
    findings += [
        Finding(
            f"{count} documents or events are parked {direction}, the oldest for {oldest_s:.0f} s",
            f"parked {direction}",
            "they wait for another document, or are refused again and again",
            "see: crossfeed dead-letters parked",
            Level.WARNING,
        )
        for direction, count, oldest_s in parked
        if count and oldest_s > _OLD_S
    ]
    return answer("dead letters", findings, "none, and nothing is parked for long")


async def ask_parity(installed: Installed) -> Examined:
    """Whether the last comparison of both stores found them equal."""
    with translated("reading the last comparison"):
        async with installed.engine.connect() as connection:
            recorded = await read_parity(connection)
    findings = [
        Finding(
            f"{one.unaccounted} documents differed {one.age_s:.0f} s ago",
            f"entity type {one.entity}",
            "the follower is not what the primary is",
            "run: crossfeed validate; then: crossfeed repair --apply",
        )
        for one in recorded
        if one.unaccounted > 0
    ]
    if not recorded:
        return answer("parity", [], "never compared so far; that takes: crossfeed validate")
    return answer("parity", findings, f"equal when they were compared, {max(one.age_s for one in recorded):.0f} s ago")
