"""What befalls relays, mirrors, clients and their requests while a history walks from phase to phase."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from contextlib import asynccontextmanager
from itertools import cycle
from typing import TYPE_CHECKING, assert_never

from core.local.cosmos.faults import Hold, Match, Operation, Rule
from core.local.cosmos.faults.client import FaultsError
from tests.chaos.history_plan import MEETS, Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from core.local.cosmos.faults.client import FaultsClient
    from tests.chaos.history_fleet import Fleet
    from tests.chaos.history_plan import Meets, Plan, Trouble

RELAYS = MIRRORS = 2
CLIENTS = 2
_HELD_SHARE = 0.2
_WRITES = frozenset({Operation.CREATE, Operation.REPLACE, Operation.BATCH})


class Troubles:
    """Keeps a fleet running and makes the troubles of a plan, one beginning after the other.

    Args:
        plan: see Plan.
        fleet: who is troubled.
        faults: of the Cosmos DB account.
        database: whose requests are held back there.

    """

    def __init__(self, plan: Plan, fleet: Fleet, faults: FaultsClient, database: str) -> None:
        self._plan = plan
        self._fleet = fleet
        self._faults = faults
        self._database = database
        self._clients = 0
        self.may_come = asyncio.Event()
        self.may_come.set()
        self.made: dict[str, int] = {}

    async def make(self) -> None:
        """Go on until cancelled; what has begun is undone then."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_running())
            for trouble in cycle(self._plan.troubles):
                await asyncio.sleep(trouble.after_s)
                await self.may_come.wait()
                group.create_task(self._befall(trouble))

    async def start(self) -> None:
        """Start everybody."""
        await self._replace()

    async def _keep_running(self) -> None:
        """Replace those that were killed, as an orchestrator does."""
        while True:
            await asyncio.sleep(0.1)
            await self._replace()

    async def _replace(self) -> None:
        self._fleet.reap()
        for role, wanted in (("relay", RELAYS), ("mirror", MIRRORS), ("client", CLIENTS)):
            for _ in range(wanted - sum(each.role == role for each in self._fleet.running)):
                await (self._fleet.start(role, role) if role != "client" else self._start_client())

    async def _start_client(self) -> None:
        self._clients += 1
        session = f"c{self._clients}"
        file = self._fleet.directory / f"{session}.jsonl"
        await self._fleet.start("client", "client", session, f"{self._plan.seed}-{session}", str(file))

    async def _befall(self, trouble: Trouble) -> None:
        if trouble.kind is Kind.HELD:
            await self._hold(trouble)
            return
        awake = self._fleet.awake(*trouble.roles)
        if not awake:
            return
        one = awake[int(trouble.dice * len(awake))]
        self._count(f"{one.role} {trouble.kind}")
        match trouble.kind:
            case Kind.KILLED:
                one.signal(signal.SIGKILL)
            case Kind.ASLEEP:
                await one.sleep(trouble.seconds)
            case _:
                assert_never(trouble.kind)

    async def _hold(self, trouble: Trouble) -> None:
        async with self.holding(trouble.seconds, MEETS[int(trouble.dice * len(MEETS))]):
            await asyncio.sleep(1.0)

    @asynccontextmanager
    async def holding(self, seconds: float, meets: Meets) -> AsyncIterator[None]:
        """Keep some of the requests that write back for a while; many arrive when the primary has moved."""
        self._count(Kind.HELD.value)
        match = Match(operations=_WRITES, database=self._database)
        rule = await self._faults.add(Rule(do=Hold(client=meets, seconds=seconds), on=match, probability=_HELD_SHARE))
        try:
            yield
        finally:
            with contextlib.suppress(FaultsError):
                await self._faults.remove(rule.name or "")

    def _count(self, what: str) -> None:
        self.made[what] = self.made.get(what, 0) + 1
