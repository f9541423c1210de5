"""A script of somebody who has the bare SDK and the keys: writes game sessions of the legacy application at random.

    python -m tests.e2e.foreign_writer ENDPOINT DATABASE SEED WRITES

The key comes in CROSSFEED_TEST_COSMOS_KEY. Prints what it has left there: a JSON array of documents.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys

from azure.cosmos.aio import CosmosClient

from tests.integration.foreign_steps import LegacyApplication

KEY = "CROSSFEED_TEST_COSMOS_KEY"
METHODS = ("save", "save", "save", "change", "change", "put_back", "delete", "move")
ACCOUNTS = ("ann", "bob")
IDS = tuple(f"s{number}" for number in range(20))


async def write(endpoint: str, database: str, seed: int, writes: int) -> None:
    rng = random.Random(seed)
    async with CosmosClient(endpoint, os.environ[KEY]) as client:
        container = client.get_database_client(database).get_container_client("GameSessions")
        legacy = LegacyApplication(container, serial=1000 * seed)
        for _ in range(writes):
            method, key = rng.choice(METHODS), (rng.choice(ACCOUNTS), rng.choice(IDS))
            if method == "move":
                await legacy.move(key, ACCOUNTS[key[0] == "ann"])
            else:
                await getattr(legacy, method)(key)
        left = [await legacy.read((account, id_)) for account in ACCOUNTS for id_ in IDS]
    print(json.dumps([document for document in left if document is not None]))


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
