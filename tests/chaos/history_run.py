"""Plays one history: real processes on both stores, a walk through the phases, troubles, and the judgement."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.phases import Phase
from core.postgres.authority import LATE_WRITE
from core.postgres.phases import open_phase, read_phase
from functions.demo.states import in_cosmos, in_postgres
from functions.demo.stores import Stores
from tests.chaos.fleet import environment_of
from tests.chaos.history_checker import judge
from tests.chaos.history_fleet import Fleet
from tests.chaos.history_log import Seen, read_logs
from tests.chaos.history_operator import Operator
from tests.chaos.history_plan import Leg
from tests.chaos.history_troubles import Troubles
from tests.integration.relay_steps import letters

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.local.cosmos.faults.client import FaultsClient
    from core.mappings import Mappings
    from core.settings import Settings
    from functions.demo.states import State
    from tests.chaos.history_fleet import Forge
    from tests.chaos.history_plan import Plan

LEASE_S = 2.5
EQUAL_WITHIN_S = 60.0
# Every late write leaves a letter, which an operator has to accept; letters of any other kind fail the history.
_OPTIONS = ("--settle", "20", "--timeout", "60", "--pause-budget", "15", "--accept-dead-letters", "1000")


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of a history, and what its operator did."""

    violations: list[str]
    story: str
    commands: list[str]


@dataclass(frozen=True, slots=True)
class World:
    """One installation: both stores of a history."""

    settings: Settings
    mappings: Mappings
    engine: AsyncEngine
    cosmos: CosmosStore
    faults: FaultsClient

    async def states(self) -> tuple[dict[Identity, State], dict[Identity, State]]:
        """Return what is in Postgres, and in Cosmos DB."""
        stores = Stores(self.settings, self.mappings, self.engine, self.cosmos)
        rows: dict[Identity, State] = {}
        documents: dict[Identity, State] = {}
        for mapping in self.mappings:
            rows |= await in_postgres(stores, mapping)
            documents |= await in_cosmos(stores, mapping)
        return rows, documents


async def play(plan: Plan, world: World, forge: Forge, directory: Path) -> Result:
    """Play a history to its end and judge it.

    Args:
        plan: what is to happen.
        world: in the phase cosmos_only, with nothing in it.
        forge: where its processes come from.
        directory: an empty one, for logs.

    """
    if plan.start is not Phase.COSMOS_ONLY:
        await open_phase(world.engine, plan.start, who="history", why="it begins here")
    fleet = Fleet(forge, directory, environment_of(world.settings) | environment())
    troubles = Troubles(plan, fleet, world.faults, world.settings.cosmos_database)
    operator = Operator(fleet, world.engine, _OPTIONS, troubles)
    begun = time.monotonic()
    await troubles.start()
    making = asyncio.ensure_future(troubles.make())
    try:
        for leg in plan.legs:
            await operator.walk(leg)
    finally:
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        await _ended(fleet)
    await operator.walk(Leg(_beside(plan.legs[-1].to), (), 0.0, "cut", 0.0))
    violations = await _judged(world, fleet)
    late = sum(letter[1] == LATE_WRITE for letter in await letters(world.engine))
    for running in fleet.running:
        running.signal(signal.SIGKILL)
    story = f"{_story(plan, fleet, time.monotonic() - begun)}, {late} late writes, {troubles.made}"
    return Result(violations, story, operator.made)


def environment() -> dict[str, str]:
    """Return what all processes are told: short leases, short waits, small pages."""
    return {
        "CROSSFEED_WRITE_LEASE_S": "1.0",
        "CROSSFEED_TRANSACT_DEADLINE_S": "5",
        "CROSSFEED_POSTGRES_POOL_SIZE": "5",
        "CROSSFEED_RELAY_LEASE_S": str(LEASE_S),
        "CROSSFEED_RELAY_PAGE_SIZE": "50",
        "CROSSFEED_RELAY_POLL_MAX_MS": "40",
        "CROSSFEED_RELAY_RETRY_FIRST_S": "0.05",
        "CROSSFEED_RELAY_RETRY_MAX_S": "0.2",
        "CROSSFEED_MIRROR_LEASE_S": str(LEASE_S),
        "CROSSFEED_MIRROR_PAGE_SIZE": "20",
        "CROSSFEED_MIRROR_POLL_MS": "40",
        "CROSSFEED_MIRROR_PARK_FIRST_S": "0.05",
        "CROSSFEED_MIRROR_PARK_MAX_S": "0.2",
        "CROSSFEED_RECONCILE_EVERY_S": "3",
        "CROSSFEED_RECONCILE_LAG_S": "0.5",
        "CROSSFEED_LOG_LEVEL": "info",
    }


async def _ended(fleet: Fleet) -> None:
    """Let the clients end what they are doing."""
    clients = [each for each in fleet.running if each.role == "client"]
    for client in clients:
        client.signal(signal.SIGTERM)
    await asyncio.gather(*(client.ended(20) for client in clients))


def _beside(phase: Phase) -> Phase:
    """Return the phase nearest to this one in which both stores follow each other."""
    return {
        Phase.COSMOS_ONLY: Phase.DUAL_WRITE_COSMOS_READ,
        Phase.POSTGRES_ONLY: Phase.DUAL_WRITE_POSTGRES_READ,
    }.get(phase, phase)


async def _judged(world: World, fleet: Fleet) -> list[str]:
    differences: list[str] = []
    until = time.monotonic() + EQUAL_WITHIN_S
    while True:
        rows, documents = await world.states()
        differences = list(_differences(rows, documents))
        if not differences or time.monotonic() > until:
            break
        await asyncio.sleep(0.2)
    async with world.engine.connect() as connection:
        is_postgres = (await read_phase(connection)).phase >= Phase.DUAL_WRITE_POSTGRES_READ
    final = {_name(identity): _held(state) for identity, state in (rows if is_postgres else documents).items()}
    verdict = judge(read_logs(sorted(fleet.directory.glob("*.jsonl"))), final)
    dead = [f"a dead letter: {letter}" for letter in await letters(world.engine) if letter[1] != LATE_WRITE]
    return [*(f"in a log: {fault}" for fault in fleet.faults()), *verdict.violations, *dead, *differences]


def _differences(rows: dict[Identity, State], documents: dict[Identity, State]) -> list[str]:
    found = []
    for identity in sorted(rows.keys() | documents.keys()):
        row, document = rows.get(identity), documents.get(identity)
        if row is None or document is None or (row.content, row.stamp) != (document.content, document.stamp):
            found.append(f"the stores differ in {_name(identity)}: {_brief(row)} in Postgres, {_brief(document)}")
    return found


def _name(identity: Identity) -> str:
    return f"{identity.entity}/{identity.parts[0]}/{identity.id}"


def _held(state: State) -> Seen:
    return Seen() if state.content is None else Seen(state.stamp, str(state.content["DisplayName"]))


def _brief(state: State | None) -> str:
    if state is None:
        return "nothing"
    return f"{'a tombstone' if state.content is None else state.content['DisplayName']} as {state.stamp}"


def _story(plan: Plan, fleet: Fleet, seconds: float) -> str:
    history = read_logs(fleet.directory.glob("*.jsonl"))
    outcomes = Counter(write.outcome.value for write in history.writes)
    walk = "-".join(str(int(phase)) for phase in (plan.start, *(leg.to for leg in plan.legs)))
    return f"seed {plan.seed}, walk {walk}, {seconds:.1f} s, {dict(outcomes)}, {len(history.reads)} reads"
