"""Writes accounts to Cosmos DB while it fails: ours and foreign ones, and now and then poison."""

from __future__ import annotations

import asyncio
import contextlib
import random
from itertools import count
from typing import TYPE_CHECKING

from azure.core.exceptions import AzureError

from core.cosmos.unit_of_work import CosmosUnitOfWork
from core.domain.account import Account
from core.errors import ConflictError, OutcomeUnknownError, TransientError

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings

KEYS = 150
POISON = "poison"
EVERY = 100
"""One document of so many is poisonous."""

# Only the mirror's role meets it: nothing in Cosmos DB knows of it.
ANTIDOTE = "ALTER TABLE accounts DROP CONSTRAINT no_poison"
CONSTRAINT = f"ALTER TABLE accounts ADD CONSTRAINT no_poison CHECK (display_name <> '{POISON}')"


class MirrorWriters:
    """Some writers, until `stop` is set.

    Args:
        store: the Cosmos DB database; nobody else's client.
        mappings: of the accounts.
        epoch: in which our unit of work writes.
        seed: what everything is drawn from.
        pause_s: the longest pause between two writes of one writer.

    """

    def __init__(self, store: CosmosStore, mappings: Mappings, epoch: int, seed: int, pause_s: float = 0.02) -> None:
        self._store = store
        self._mappings = mappings
        self._epoch = epoch
        self._seed = seed
        self._pause_s = pause_s
        self._numbers = count(1)
        self.stop = asyncio.Event()
        self.written = 0

    async def run(self, writers: int = 3) -> None:
        """Write until told to stop."""
        async with asyncio.TaskGroup() as group:
            for number in range(writers):
                group.create_task(self._write(random.Random(f"{self._seed}-{number}")))

    async def _write(self, rng: random.Random) -> None:
        while not self.stop.is_set():
            number = next(self._numbers)
            try:
                if number % EVERY == 0:
                    await self._foreign(rng, POISON, rng.choice(["poison", "key"]))
                elif rng.random() < 0.4:
                    await self._foreign(rng, f"foreign {number}", "key")
                else:
                    await self._ours(rng, f"ours {number}")
                self.written += 1
            except (AzureError, ConflictError, TransientError, OutcomeUnknownError):
                pass  # what it did is in Cosmos DB, or it is not
            await asyncio.sleep(rng.uniform(0, self._pause_s))

    async def _foreign(self, rng: random.Random, name: str, kind: str) -> None:
        """Write as an application does that knows nothing of Crossfeed."""
        container = self._store.container(self._mappings.of(Account))
        document = {"id": f"{kind}{rng.randrange(KEYS)}", "DisplayName": name, "unknown": {"to": rng.random()}}
        await container.upsert_item(document)

    async def _ours(self, rng: random.Random, name: str) -> None:
        id_ = f"key{rng.randrange(KEYS)}"
        async with CosmosUnitOfWork(self._store, self._mappings, self._epoch) as work:
            with contextlib.suppress(ConflictError):
                account = await work[Account].get_by_id(id_, partition_key=id_)
                if account is None:
                    await work[Account].add(Account(id=id_, display_name=name))
                elif rng.random() < 0.2:
                    await work[Account].delete(account)
                else:
                    await work[Account].update(account.model_copy(update={"display_name": name}))
                await work.commit()
