"""Random interleavings of clients that read and write through the cache, of others, of losses, and of Redis' own ends.

Every state of an account has a number, its deletions too. Who was shown state 7 reads state 7 or a later one; so does
everybody once the cache was told of state 7.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import redis
from hypothesis import strategies as st
from sqlalchemy import text

from core.cache.changes import Changed
from core.domain.account import Account, Accounts
from core.postgres.unit_of_work import PostgresUnitOfWork
from core.stamp import Stamp
from tests.integration.cache_steps import Held, account, identity_of

if TYPE_CHECKING:
    from core.local.valkey import EmbeddedValkey
    from tests.integration.cache_steps import Client

IDS = "ab"
MOST_HELD = 5  # each has a connection
_WHO = st.integers(0, 2)
_ID = st.sampled_from(IDS)

STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["read", "read", "hold", "write", "delete", "look up", "list"]), _WHO, _ID),
        st.tuples(
            st.sampled_from(["lost write", "lost delete", "raw write", "raw delete", "tell", "evict"]), _WHO, _ID
        ),
        st.tuples(st.sampled_from(["let go", "let go", "flush", "restart"]), _WHO, _ID),
    ),
    min_size=5,
    max_size=40,
)


@dataclass
class History:
    """The states of one account: True where it was there, by number; the last one is in the store."""

    states: list[bool] = field(default_factory=lambda: [False])
    told: int = 0
    untold: list[int] = field(default_factory=list)
    stamps: dict[int, Stamp] = field(default_factory=dict)

    @property
    def now(self) -> int:
        return len(self.states) - 1


@dataclass
class Flight:
    """A read that has looked into the store and is held there."""

    who: int
    id: str
    floor: int
    held: Held
    task: asyncio.Task[Account | None]


class World:
    """Some clients, the accounts of one example, and what each client was shown."""

    def __init__(self, clients: list[Client], valkey: EmbeddedValkey, example: int) -> None:
        self.clients = clients
        self.valkey = valkey
        self.ids = {letter: f"{letter}-{example}" for letter in IDS}
        self.histories = {letter: History() for letter in IDS}
        self.shown = {(who, letter): 0 for who in range(len(clients)) for letter in IDS}
        self.flights: list[Flight] = []

    async def run(self, steps: list[tuple[str, int, str]]) -> None:
        try:
            for what, who, letter in steps:
                await self.step(what, who, letter)
            for who in range(len(self.clients)):
                for letter in IDS:
                    await self.read(who, letter)
        finally:
            while self.flights:
                await self.let_go(0)

    async def step(self, what: str, who: int, letter: str) -> None:  # noqa: C901, PLR0912 - a list of steps
        match what:
            case "read":
                await self.read(who, letter)
            case "look up":
                await self.look_up(who, letter)
            case "list":
                await self.list(who)
            case "hold" if len(self.flights) < MOST_HELD:
                await self.hold(who, letter)
            case "let go" if self.flights:
                await self.let_go(who % len(self.flights))
            case "write":
                await self.write(who, letter)
            case "lost write":
                async with self.clients[who].losing_what_it_tells():
                    await self.write(who, letter, is_told=False)
            case "delete":
                await self.delete(who, letter)
            case "lost delete":
                async with self.clients[who].losing_what_it_tells():
                    await self.delete(who, letter, is_told=False)
            case "raw write" | "raw delete":
                await self.raw(letter, delete=what == "raw delete")
            case "tell":
                await self.tell(who, letter)
            case "evict":
                with redis.Redis.from_url(self.valkey.url) as server:
                    server.delete(self.clients[who].key(self.ids[letter]))
            case "flush":
                with redis.Redis.from_url(self.valkey.url) as server:
                    server.flushall()
            case "restart":
                self.valkey.kill()
                self.valkey.start()
            case _:
                pass

    # -- reading

    def floor(self, who: int, letter: str) -> int:
        return max(self.shown[who, letter], self.histories[letter].told)

    def check(self, who: int, letter: str, found: Account | None, floor: int) -> None:
        """Find the number of what was shown; None may be any state without an account, so it is the first that fits."""
        history = self.histories[letter]
        if found is None:
            fits = [number for number in range(floor, len(history.states)) if not history.states[number]]
            assert fits, f"{letter}: nothing was shown to {who}, who may not see states before {floor}: {history}"
            shown = fits[0]
        else:
            shown = int(found.display_name)
            assert shown >= floor, f"{letter}: {shown} was shown to {who}, who may not see states before {floor}"
        self.shown[who, letter] = max(shown, self.shown[who, letter])

    async def read(self, who: int, letter: str) -> None:
        floor = self.floor(who, letter)
        self.check(who, letter, await self.clients[who].get(self.ids[letter]), floor)

    async def look_up(self, who: int, letter: str) -> None:
        """An account keeps its e-mail, so a look-up of it shows it, or that there is none."""
        floor = self.floor(who, letter)
        found = await self.clients[who].by_email(account(self.ids[letter]).email)
        self.check(who, letter, found, floor)

    async def list(self, who: int) -> None:
        floors = {letter: self.floor(who, letter) for letter in IDS}
        async with self.clients[who].work() as work:
            found = {one.id: one for one in await work.of(Accounts).list()}
        for letter, floor in floors.items():
            self.check(who, letter, found.get(self.ids[letter]), floor)

    async def hold(self, who: int, letter: str) -> None:
        held, floor = Held(), self.floor(who, letter)
        task = asyncio.create_task(self.clients[who].get(self.ids[letter], held))
        reading = asyncio.create_task(held.has_read.wait())
        await asyncio.wait({task, reading}, return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
        if task.done():
            self.check(who, letter, await task, floor)
        else:
            self.flights.append(Flight(who, letter, floor, held, task))

    async def let_go(self, number: int) -> None:
        flight = self.flights.pop(number)
        flight.held.let_go.set()
        self.check(flight.who, flight.id, await flight.task, flight.floor)

    # -- writing

    async def write(self, who: int, letter: str, *, is_told: bool = True) -> None:
        client, history, id_ = self.clients[who], self.histories[letter], self.ids[letter]
        number = history.now + 1
        if history.states[-1]:
            await client.change(id_, display_name=str(number))
        else:
            await client.add(account(id_, str(number)))
        await self.written(letter, who, is_there=True, is_told=is_told)

    async def delete(self, who: int, letter: str, *, is_told: bool = True) -> None:
        if self.histories[letter].states[-1]:
            await self.clients[who].delete(self.ids[letter])
            await self.written(letter, who, is_there=False, is_told=is_told)

    async def written(self, letter: str, who: int | None, *, is_there: bool, is_told: bool) -> None:
        history = self.histories[letter]
        history.states.append(is_there)
        history.stamps[history.now] = await self.stamp(letter, is_there=is_there)
        if who is not None:
            self.shown[who, letter] = history.now
        if is_told:
            history.told = history.now
        else:
            history.untold.append(history.now)

    async def raw(self, letter: str, *, delete: bool) -> None:
        """Write by SQL: nobody tells the cache but the relay, some time."""
        history, id_ = self.histories[letter], self.ids[letter]
        if not history.states[-1]:
            return
        change = "DELETE FROM accounts" if delete else f"UPDATE accounts SET display_name = '{history.now + 1}'"
        async with self.clients[0].engine.begin() as connection:
            await connection.execute(text(f"{change} WHERE id = :id"), {"id": id_})
        await self.written(letter, None, is_there=not delete, is_told=False)

    async def stamp(self, letter: str, *, is_there: bool) -> Stamp:
        columns = (
            "crossfeed_epoch, crossfeed_version FROM accounts"
            if is_there
            else "epoch, version FROM crossfeed.tombstone"
        )
        async with self.clients[0].engine.connect() as connection:
            found = await connection.execute(text(f"SELECT {columns} WHERE id = :id"), {"id": self.ids[letter]})
            return Stamp(*found.one())

    async def tell(self, who: int, letter: str) -> None:
        """Tell as the relay does: any change that was not told, in whatever order."""
        history, id_ = self.histories[letter], self.ids[letter]
        if not history.untold:
            return
        number = history.untold.pop(who % len(history.untold))
        content = await self.content(id_) if history.states[number] else None
        stamp = history.stamps[number] if who else None
        change = Changed(identity_of(id_), stamp, deleted=not history.states[number], content=content)
        await self.clients[who].cache.changed([change])
        history.told = max(history.told, number)

    async def content(self, id_: str) -> dict[str, str] | None:
        async with PostgresUnitOfWork(self.clients[0].engine, self.clients[0].cache.mappings) as work:
            found = await work[Account].get_by_id(id_)
        return None if found is None else {"Email": found.email}
