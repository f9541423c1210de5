"""A client of a history: an application of the library that writes, reads, and writes down what it was told."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.crossfeed import Crossfeed
from core.domain.account import Account
from core.domain.pending_signup import PendingSignup
from core.entity import loaded
from core.errors import ConflictError, OutcomeUnknownError, TransientError
from core.query import Equals, Query
from core.settings import Settings
from core.telemetry import configure_logging
from functions.cli.running import run_until_stopped
from tests.chaos.history_log import ABSENT, Intent, Kind, Log, Outcome, Seen

if TYPE_CHECKING:
    from core.repository import UnitOfWork

ACCOUNTS = 160
EMAILS = 16
SIGNUPS = 6
"""Of each e-mail, which is their partition key."""
HOT = 8
"""So many accounts get a third of what all get."""
TASKS = 2
LONGEST_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Place:
    """One document that may be there or not."""

    model: type[Account | PendingSignup]
    id: str
    partition_key: str

    @property
    def name(self) -> str:
        """Its name in the log: what core.identity.Identity says of it, shortened."""
        return f"{self.model.__name__}/{self.partition_key}/{self.id}"

    def new(self, token: str) -> Account | PendingSignup:
        """Return what is added where nothing is."""
        if self.model is Account:
            return Account(id=self.id, display_name=token)
        return PendingSignup(id=self.id, email=self.partition_key, display_name=token)


def account(number: int) -> Place:
    """Return the place of an account."""
    return Place(Account, f"a{number}", f"a{number}")


def signups(number: int) -> list[Place]:
    """Return the places of all sign-ups of an e-mail."""
    return [Place(PendingSignup, f"s{each}", f"e{number}@example.com") for each in range(SIGNUPS)]


def client(session: str, seed: str, file: str) -> None:
    """Be a client until SIGTERM.

    Args:
        session: its name in the log.
        seed: what it does is drawn from.
        file: the path of its log.

    """

    async def body(stop: asyncio.Event) -> None:
        settings = Settings.load()
        configure_logging(settings)
        async with Crossfeed.open(settings, settings.load_mappings()) as db, asyncio.TaskGroup() as group:
            one = Client(db, Log(Path(file), session), session)
            for number in range(TASKS):
                group.create_task(one.work(random.Random(f"{seed}-{number}"), stop))

    run_until_stopped(body)


class Client:
    """What the tasks of one process share."""

    def __init__(self, db: Crossfeed, log: Log, session: str) -> None:
        self._db = db
        self._log = log
        self._session = session
        self._numbers = count(1)

    async def work(self, rng: random.Random, stop: asyncio.Event) -> None:
        """Do one thing after the other."""
        while not stop.is_set():
            number, begun = next(self._numbers), time.monotonic()
            what = rng.random()
            if what < 0.2:
                await self._tolerantly(self._read(_any_account(rng)))
            elif what < 0.3:
                await self._tolerantly(self._look_up(rng.randrange(EMAILS)))
            elif what < 0.75:
                await self._write(number, rng, [_any_account(rng)])
            else:
                places = signups(rng.randrange(EMAILS))
                await self._write(number, rng, rng.sample(places, rng.choice([1, 1, 2, 3])))
            # Where everything is slow, relays and mirrors have to keep up as well.
            await asyncio.sleep(rng.uniform(0, LONGEST_PAUSE_S) + 2 * min(time.monotonic() - begun, 0.5))

    async def _tolerantly(self, reading: Any) -> None:
        try:
            await reading
        except (TransientError, ConflictError):
            await asyncio.sleep(0.05)

    async def _read(self, place: Place) -> None:
        begun = time.monotonic_ns()
        async with self._db.unit_of_work() as work:
            await self._seen(work, place, begun)

    async def _look_up(self, number: int) -> None:
        """Read all sign-ups of an e-mail at once, those that are not there as well."""
        places = signups(number)
        begun = time.monotonic_ns()
        async with self._db.unit_of_work() as work:
            found = await work[PendingSignup].list(Query((Equals("email", places[0].partition_key),)))
        by_id = {each.id: _state(each) for each in found}
        for place in places:
            self._log.read(place.name, begun, by_id.get(place.id, ABSENT))

    async def _write(self, operation: int, rng: random.Random, places: list[Place]) -> None:
        """Write to all of these places in one unit of work; what is done is decided by what is there."""
        attempts = count(1)
        dice = [rng.random() for _ in places]
        written: list[Any] = []
        begun = time.monotonic_ns()

        async def use_case(work: UnitOfWork) -> None:
            nonlocal begun
            written.clear()
            intents = []
            token = f"{self._session}-{operation}-{next(attempts)}"
            try:
                for number, place in enumerate(places):
                    entity, seen = await self._seen(work, place, begun)
                    intent, now = await _written(work, place, entity, seen, f"{token}-{number}", dice[number])
                    intents.append(intent)
                    written.append(now)
                self._log.attempt(operation, begun, intents)
                await work.commit()
            finally:
                begun = time.monotonic_ns()

        outcome = Outcome.ACKNOWLEDGED
        try:
            await self._db.transact(use_case)
        except OutcomeUnknownError:
            outcome = Outcome.UNKNOWN
        except (ConflictError, TransientError):
            outcome = Outcome.REFUSED
            await asyncio.sleep(0.02)
        stamps = [_state(entity).stamp for entity in written] if outcome is Outcome.ACKNOWLEDGED else []
        self._log.ended(operation, outcome, stamps)

    async def _seen(self, work: UnitOfWork, place: Place, begun: int) -> tuple[Any, Seen]:
        entity = await work[place.model].get_by_id(place.id, partition_key=place.partition_key)
        seen = _state(entity)
        self._log.read(place.name, begun, seen)
        return entity, seen


async def _written(  # noqa: PLR0913, PLR0917 - the facts of a write
    work: UnitOfWork, place: Place, entity: Any, seen: Seen, token: str, dice: float
) -> tuple[Intent, Any]:
    """Add what is missing; of what is there, delete some and change the others. Return also what was written."""
    intend = partial(Intent, place.name, token=token, base=seen)
    if entity is None:
        added = place.new(token)
        await work[place.model].add(added)
        return intend(kind=Kind.ADD), added
    if dice < 0.2:
        await work[place.model].delete(entity)
        return intend(kind=Kind.DELETE), None
    entity.display_name = token
    await work[place.model].update(entity)
    return intend(kind=Kind.UPDATE), entity


def _state(entity: Account | PendingSignup | None) -> Seen:
    if entity is None:
        return ABSENT
    state = loaded(entity)
    assert state is not None
    return Seen(state.stamp, entity.display_name)


def _any_account(rng: random.Random) -> Place:
    return account(rng.randrange(HOT) if rng.random() < 0.33 else rng.randrange(ACCOUNTS))
