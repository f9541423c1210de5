"""Writes to Postgres while it is restarted under it: raw SQL, aggregates that count their own events, rollbacks."""

from __future__ import annotations

import asyncio
import random
from itertools import count
from typing import TYPE_CHECKING, Any

import psycopg

from core.domain.mappings import ACCOUNTS
from tests.chaos.test_relay_kill import ONCE, WRITES

if TYPE_CHECKING:
    from tests.chaos.postgres_machine import PostgresMachine

KEYS = 30
COUNTERS = 10
COUNT = """
    INSERT INTO accounts (id, display_name) VALUES (%(id)s, '1')
    ON CONFLICT (id) DO UPDATE SET display_name = (accounts.display_name::int + 1)::text RETURNING display_name
"""
RECORD = """
    SELECT crossfeed.record_events('Account', %(key)s, %(id)s,
        (SELECT crossfeed_version FROM accounts WHERE id = %(id)s FOR NO KEY UPDATE), ARRAY[%(event_id)s::text],
        ARRAY[json_build_object('id', %(event_id)s::text, 'data', json_build_object('number', %(number)s::int))])
"""


class Writers:
    """Some writers, until `stop` is set. `acknowledged` counts the transactions whose commit was answered."""

    def __init__(self, machine: PostgresMachine, seed: int, writers: int = 3, longest_pause_s: float = 0.02) -> None:
        self._machine = machine
        self._seed = seed
        self._writers = writers
        self._longest_pause_s = longest_pause_s
        self.stop = asyncio.Event()
        self.acknowledged: set[str] = set()
        """Ids of the accounts that are written once and never again."""

    async def run(self) -> None:
        """Write until told to stop."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._writers):
                group.create_task(self._write(random.Random(f"{self._seed}-{number}"), number))

    async def _write(self, rng: random.Random, writer: int) -> None:
        numbers = count()
        while not self.stop.is_set():
            try:
                async with await self._machine.connect() as session:
                    while not self.stop.is_set():
                        await self._once(session, rng, f"{writer}-{next(numbers)}")
                        await asyncio.sleep(rng.uniform(0, self._longest_pause_s))
            except (psycopg.OperationalError, psycopg.InterfaceError):  # the server is away
                await asyncio.sleep(0.05)

    async def _once(self, session: psycopg.AsyncConnection[Any], rng: random.Random, serial: str) -> None:
        what = rng.random()
        rolled_back = rng.random() < 0.1
        try:
            async with session.transaction(force_rollback=rolled_back):
                if what < 0.4:
                    await _count(session, f"e{rng.randrange(COUNTERS)}", serial)
                elif what < 0.6:
                    await session.execute(ONCE.format(serial=serial).encode())
                else:
                    await session.execute(rng.choice(WRITES).format(key=rng.randrange(KEYS)).encode())
        except psycopg.errors.UniqueViolation:
            return
        if 0.4 <= what < 0.6 and not rolled_back:
            self.acknowledged.add(f"once{serial}")


async def _count(session: psycopg.AsyncConnection[Any], id_: str, serial: str) -> None:
    """Count an aggregate on, and record the event that says so, in one transaction."""
    [number] = await (await session.execute(COUNT, {"id": id_})).fetchone() or ("",)
    key = ACCOUNTS.identity_of(id_, id_).partition_key
    await session.execute(RECORD, {"id": id_, "key": key, "event_id": f"{serial}-{number}", "number": number})
