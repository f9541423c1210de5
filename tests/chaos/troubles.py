"""What can happen to processes and stores while they work, drawn from a seed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import psycopg

from core.errors import CrossfeedError
from core.local.cosmos.faults import READS, WRITES, Cut, Delay, Hold, Match, Operation, Refuse, Rule, Uniform
from core.local.cosmos.faults.client import FaultsError
from outbox.slot_change import change_slots
from tests.integration.relay_steps import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.local.cosmos.faults.actions import Action
    from core.local.cosmos.faults.client import FaultsClient
    from tests.chaos.fleet import Fleet
    from tests.chaos.network import Network
    from tests.chaos.postgres_machine import PostgresMachine

PROCESSES = 3
_GAP_S = 2.0
"""Between the beginnings of two troubles, in seconds: several are going on at any time."""


class Troubles(ABC):
    """Makes trouble, every kind at least once, and ends with none.

    Args:
        seed: what everything is drawn from.
        fleet: the processes; those that end by themselves are replaced, as an orchestrator does.
        machine: their Postgres.
        network: what is between them and it.
        faults: of their Cosmos DB.
        lease_s: their lease, in seconds.
        split: splits a physical partition of Cosmos DB.

    """

    def __init__(  # noqa: PLR0913 - what there is to be troubled
        self,
        seed: int,
        *,
        fleet: Fleet,
        machine: PostgresMachine,
        network: Network,
        faults: FaultsClient,
        lease_s: float,
        split: Callable[[], Awaitable[object]],
    ) -> None:
        self._rng = random.Random(seed)
        self._fleet = fleet
        self._machine = machine
        self._network = network
        self._faults = faults
        self._lease_s = lease_s
        self._split = split
        self._asleep: set[int] = set()
        self._wanted = PROCESSES
        self.made: dict[str, int] = {}
        self.ended_by_themselves = 0

    async def make(self, seconds: float) -> None:
        """Go through all kinds in a drawn order, again and again, for about `seconds`; then let everything recover."""
        kinds = self._kinds()
        rounds = max(1, round(seconds / (_GAP_S * len(kinds))))
        gap_s = min(_GAP_S, seconds / (rounds * len(kinds)))
        keeping = asyncio.ensure_future(self._keep_running())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(rounds):
                    for name in self._rng.sample(list(kinds), len(kinds)):
                        group.create_task(kinds[name]())
                        self.made[name] = self.made.get(name, 0) + 1
                        await asyncio.sleep(gap_s * self._rng.uniform(0.5, 1.5))
            await self._faults.release_all()  # each rule was removed in its time
            await asyncio.sleep(0.3)  # for those that are being replaced
            await self._recover()
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    def _kinds(self) -> dict[str, Callable[[], Coroutine[Any, Any, object]]]:
        """Return everything that may happen."""
        return {
            "killed": self._kill,
            "slept": self._sleep,
            "handed over": self._hand_over,
            "joined": self._join,
            "restarted": self._restart,
            "crashed": self._crash,
            "ended": self._end_sessions,
            "cut": self._cut,
            "silent": self._fall_silent,
            "throttled": self._throttle,
            "unavailable": self._unavailable,
            "cut after": self._cut_after,
            "slow": self._slow,
            "split": self._split_once,
        }

    async def _recover(self) -> None:  # noqa: B027 - most have nothing to do
        """Do what has to be done before everything is well again."""

    async def _keep_running(self) -> None:
        while True:
            self.ended_by_themselves += len(self._fleet.reap())
            while len(self._fleet.pids) < self._wanted:
                await self._fleet.start()
            await asyncio.sleep(0.2)

    def _one(self) -> int | None:
        awake = [pid for pid in self._fleet.pids if pid not in self._asleep]
        return self._rng.choice(awake) if awake else None

    async def _kill(self) -> None:
        if (pid := self._one()) is not None:
            self._fleet.kill(pid)

    async def _sleep(self) -> None:
        """Stop a process for longer than its lease: it wakes up as a zombie, in the middle of whatever it did."""
        if (pid := self._one()) is not None:
            self._asleep.add(pid)
            self._fleet.signal(pid, signal.SIGSTOP)
            await asyncio.sleep(self._lease_s * self._rng.uniform(1.2, 3.5))
            self._fleet.signal(pid, signal.SIGCONT)
            self._asleep.discard(pid)

    async def _hand_over(self) -> None:
        if (pid := self._one()) is not None:
            self._fleet.stop(pid)

    async def _join(self) -> None:
        """One more for a while: leases go to it, and back."""
        self._wanted += 1
        await asyncio.sleep(self._lease_s * self._rng.uniform(1, 3))
        self._wanted -= 1
        await self._hand_over()

    async def _restart(self) -> None:
        await self._machine.restart()

    async def _crash(self) -> None:
        await self._machine.crash()

    async def _end_sessions(self) -> None:
        with contextlib.suppress(psycopg.OperationalError):  # it is being restarted
            await self._machine.cut()

    async def _cut(self) -> None:
        self._network.cut()

    async def _fall_silent(self) -> None:
        """Lose connections without a word; or what they said arrives after all, when leases have another owner."""
        links = self._network.silence(self._rng)
        await asyncio.sleep(self._lease_s * self._rng.uniform(1.2, 3.5))
        are_lost = self._rng.random() < 0.5
        for link in links:
            if are_lost:
                link.cut()
            else:
                link.flows.set()

    async def _throttle(self) -> None:
        await self._for_a_while(Refuse(status=429, retry_after_ms=self._rng.randrange(1, 80)), 0.5)

    async def _unavailable(self) -> None:
        await self._for_a_while(Refuse(status=503, moment=self._rng.choice(["before", "after"])), 0.7)

    async def _cut_after(self) -> None:
        await self._for_a_while(Cut(moment=self._rng.choice(["after", "middle"])), 0.3)

    async def _slow(self) -> None:
        await self._for_a_while(Delay(duration=Uniform(most=0.1), moment=self._rng.choice(["before", "after"])), 0.5)

    @abstractmethod
    def _aims(self, do: Action) -> frozenset[Operation]:
        """Return what a fault of Cosmos DB is to hit."""

    async def _for_a_while(self, do: Action, probability: float) -> None:
        rule = await self._faults.add(Rule(do=do, on=Match(operations=self._aims(do)), probability=probability))
        await asyncio.sleep(self._rng.uniform(0.3, 1.5))
        assert rule.name is not None
        with contextlib.suppress(FaultsError):
            await self._faults.remove(rule.name)

    async def _split_once(self) -> None:
        await self._split()


class RelayTroubles(Troubles):
    """Also cuts the log anew, and keeps writes back.

    Args:
        seed: see Troubles.
        engine: its owner's, past the network.
        others: see Troubles.

    """

    def __init__(self, seed: int, *, engine: AsyncEngine, **others: Any) -> None:
        super().__init__(seed, **others)
        self._engine = engine
        self.slots: list[int] = []
        """Into how many slots the log was cut, one after the other."""

    def _kinds(self) -> dict[str, Callable[[], Coroutine[Any, Any, object]]]:
        return super()._kinds() | {"slots": self._change_slots, "held": self._hold}

    def _aims(self, do: Action) -> frozenset[Operation]:
        return WRITES if isinstance(do, Hold | Cut) else WRITES | {Operation.READ, Operation.QUERY}

    async def _recover(self) -> None:
        await until(self._change_slots, 20)  # however often it was refused in between

    async def _change_slots(self) -> bool:
        """Cut the log anew, which is refused while the relays do not get through; return whether it was done."""
        slots = self._rng.choice([3, 5, 8, 16, 24])
        try:
            await change_slots(self._engine, slots)
        except CrossfeedError:
            return False
        self.slots.append(slots)
        return True

    async def _hold(self) -> None:
        """Keep requests back until their slots have another owner."""
        client = self._rng.choice(["cut", "timeout", "waits"])
        await self._for_a_while(Hold(client=client, seconds=self._lease_s * self._rng.uniform(2.2, 3.2)), 0.2)


class MirrorTroubles(Troubles):
    """Also lets the clock of Cosmos DB step back; faults hit what mirrors read."""

    def _kinds(self) -> dict[str, Callable[[], Coroutine[Any, Any, object]]]:
        return super()._kinds() | {"stepped back": self._step_back}

    def _aims(self, do: Action) -> frozenset[Operation]:
        return READS if isinstance(do, Cut) else READS | {Operation.RANGES}

    async def _step_back(self) -> None:
        await self._faults.advance_clock(-self._rng.choice([2, 30, 3600]))


def splitter(faults: FaultsClient, seed: int) -> Callable[[], Awaitable[None]]:
    """Return what splits a drawn physical partition of the accounts, until there are six."""
    rng = random.Random(seed)
    ranges = ["0"]

    async def split() -> None:
        if len(ranges) < 6:
            ranges.extend(await faults.split("chaos", "Accounts", ranges.pop(rng.randrange(len(ranges)))))

    return split
