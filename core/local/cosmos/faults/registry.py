"""Holds the rules that are switched on, and what they have done."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never

from core.local.cosmos.faults.actions import Budget, Cut, Delay, Down, Hold, Lag, Refuse
from core.local.cosmos.faults.budget import Buckets
from core.local.cosmos.faults.draws import Draws, Tally
from core.local.cosmos.faults.held import HeldRequests
from core.local.cosmos.faults.replicas import forget, remember
from core.local.cosmos.faults.rules import READS, Rule
from core.local.cosmos.faults.subject import came_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

    from core.local.cosmos.faults.actions import Action
    from core.local.cosmos.faults.rules import Operation
    from core.local.cosmos.faults.subject import Subject
    from core.local.cosmos.state.account import Account
    from core.local.cosmos.state.container import Container

MAX_SEED: Final = 2**63 - 1
_LOGGED: Final = 1_000


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault that really happened: which rule did what to which request."""

    rule: str
    fault: str
    operation: Operation
    path: str
    ids: tuple[str, ...]


class ActiveRule:
    """A rule that is switched on: its tally, and its buckets where it has a budget."""

    def __init__(self, name: str, rule: Rule) -> None:
        self.name = name
        self.rule = rule
        self.tally = Tally()
        self.buckets = Buckets(rule.do) if isinstance(rule.do, Budget) else None


@dataclass(frozen=True, slots=True)
class Step:
    """What a rule does to one request; `wait_ms` is how long its budget is overdrawn."""

    active: ActiveRule
    random: Random
    wait_ms: int | None = None

    @property
    def action(self) -> Action:
        """The fault."""
        return self.active.rule.do


class Faults:
    """The faults of one server, none until they are added.

    What happens to a request is decided when it comes, rule by rule in the order they were added, and is drawn from
    the `seed` (from 0 to `MAX_SEED`; a random one by default), the rule's name and the request's subject: the same
    rules and requests meet the same faults, however requests about different subjects are interleaved. Rules behind
    one that ends the request do not see it. `held` are the requests that are held back. All of it belongs to the event
    loop of the server.
    """

    def __init__(self, account: Callable[[], Account], seed: int | None = None) -> None:
        self.active = False
        self.held = HeldRequests()
        self.account = account
        self._rules: tuple[ActiveRule, ...] = ()
        self._injected: Counter[str] = Counter()
        self._log: deque[Injection] = deque(maxlen=_LOGGED)
        self._named = 0
        self._pauses: set[asyncio.Future[None]] = set()
        self._draws = Draws(secrets.randbelow(2**32) if seed is None else _checked(seed))

    @property
    def seed(self) -> int:
        """What all draws come from; setting it begins them, and the rules' counts, again.

        Raises:
            ValueError: it is set to something that is no seed.
        """
        return self._draws.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._draws = Draws(_checked(seed))
        for active in self._rules:
            active.tally = Tally()

    @property
    def rules(self) -> list[Rule]:
        """The rules that are switched on, in their order."""
        return [active.rule for active in self._rules]

    @property
    def injected(self) -> dict[str, int]:
        """How many faults really happened, by the name of their rule; also those of rules that were removed."""
        return dict(self._injected)

    @property
    def log(self) -> list[Injection]:
        """The last 1,000 faults that really happened, oldest first."""
        return list(self._log)

    def add(self, rule: Rule) -> Rule:
        """Switch a rule on and return it with its name; one named as a removed one was counts on from there.

        Raises:
            ValueError: its name is taken.
        """
        name = rule.name
        taken = {active.name for active in self._rules}
        while name is None or (rule.name is None and name in taken):
            self._named += 1
            name = f"rule-{self._named}"
        if name in taken:
            message = f"name: there is a rule {name!r} already"
            raise ValueError(message)
        named = rule.model_copy(update={"name": name})
        self._injected.setdefault(name, 0)
        self._set_rules((*self._rules, ActiveRule(name, named)))
        return named

    def remove(self, name: str) -> None:
        """Switch a rule off; what it has decided already still happens, and its count stays.

        Raises:
            KeyError: there is no such rule.
        """
        left = tuple(active for active in self._rules if active.name != name)
        if len(left) == len(self._rules):
            raise KeyError(name)
        self._set_rules(left)

    def clear(self) -> None:
        """Switch all rules off, drop the requests that are held or delayed, and forget all counts; the seed stays."""
        self.stop()
        self._set_rules(())
        self.held.clear()
        self._injected.clear()
        self._log.clear()
        self._named = 0
        self._draws = Draws(self.seed)

    def stop(self) -> None:
        """Drop the requests that are held or delayed: they do not go on, and their connections are cut."""
        self.held.drop_all()
        for stopped in self._pauses:
            if not stopped.done():
                stopped.set_result(None)

    async def pause(self, seconds: float) -> bool:
        """Wait, and say whether the server goes on meanwhile."""
        stopped = asyncio.get_running_loop().create_future()
        self._pauses.add(stopped)
        try:
            async with asyncio.timeout(seconds):
                await stopped
        except TimeoutError:
            return True
        finally:
            self._pauses.discard(stopped)
        return False

    def decide(self, subject: Subject) -> list[Step]:
        """Return what happens to a request."""
        steps: list[Step] = []
        for active in self._rules:
            rule = active.rule
            if not subject.matches(rule.on) or not _applies(rule.do, subject):
                continue
            apart, random = self._draws.tally(active.name, subject.text)
            tally = apart if rule.per == "subject" else active.tally
            due = rule.due(tally.seen, tally.hit, random.random())
            # The draws of a subject follow its own count, whatever the rule counts.
            for counted in (apart, active.tally):
                counted.seen += 1
                counted.hit += due
            if not due:
                continue
            step = Step(active, random, self._overdrawn(active, subject))
            steps.append(step)
            if _ends(step):
                break
        return steps

    def happened(self, step: Step, subject: Subject) -> None:
        """Count a fault that really happened."""
        name = step.active.name
        self._injected[name] += 1
        self._log.append(Injection(name, step.action.kind, subject.operation, subject.path, subject.ids))

    def spend(self, steps: list[Step], subject: Subject, charge: float) -> None:
        """Take an answer's `charge` in request units from the budgets among the `steps`."""
        for step in steps:
            if step.active.buckets is not None:
                step.active.buckets.spend(_owners(step.active.rule, subject), charge, time.monotonic())

    def remember(self, container: Container | None) -> None:
        """Keep the changes of a container if there is a rule that will show its past."""
        if container is None:
            return
        if any(isinstance(active.rule.do, Lag) for active in self._rules):
            remember(container)

    def _overdrawn(self, active: ActiveRule, subject: Subject) -> int | None:
        if active.buckets is None:
            return None
        return active.buckets.wait(_owners(active.rule, subject), time.monotonic())

    def _set_rules(self, rules: tuple[ActiveRule, ...]) -> None:
        self._rules = rules
        self.active = bool(rules)
        keep = any(isinstance(active.rule.do, Lag) for active in rules)
        for container in self._containers():
            (remember if keep else forget)(container)

    def _containers(self) -> Iterator[Container]:
        for database in self.account().databases.values():
            yield from database.containers.values()


def _checked(seed: int) -> int:
    if not 0 <= seed <= MAX_SEED:
        message = f"seed: {seed} is not from 0 to {MAX_SEED}"
        raise ValueError(message)
    return seed


def _applies(action: Action, subject: Subject) -> bool:
    match action:
        case Budget() | Down():
            return bool(subject.partitions)
        case Lag():
            return subject.operation in READS and bool(subject.partitions)
        case Refuse() | Delay() | Hold() | Cut():
            return True
    assert_never(action)


def _ends(step: Step) -> bool:
    match step.action:
        case Refuse(moment=moment) | Cut(moment=moment):
            return moment == "before"
        case Hold() | Down():
            return True
        case Budget():
            return step.wait_ms is not None
        case Delay() | Lag():
            return False
    assert_never(step.action)


def _owners(rule: Rule, subject: Subject) -> list[tuple[int, str]]:
    """Name the buckets that a request draws from."""
    assert isinstance(rule.do, Budget)
    container = int.from_bytes(subject.container.rid_bytes, "big") if subject.container is not None else 0
    if rule.do.per == "container":
        return [(container, "")]
    return [(container, p.id) for p in subject.partitions if came_from(p, rule.on.range_id)]
