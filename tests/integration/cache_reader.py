"""A process that reads one account many times at once when it is told to, and says what its cache did."""

from __future__ import annotations

import asyncio
import json
import sys

from core.crossfeed import Crossfeed
from core.domain.account import Account
from core.domain.mappings import MAPPINGS
from core.settings import Settings


async def main(readers: int) -> None:
    async with Crossfeed.open(Settings.load(), MAPPINGS) as db:

        async def read() -> str:
            async with db.unit_of_work() as work:
                account = await work[Account].get_by_id("hot")
            return "none" if account is None else account.email

        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        answers = await asyncio.gather(*(read() for _ in range(readers)))
        assert db.cache is not None
        counts = {"loads": db.cache.misses + db.cache.bypassed, "hits": db.cache.hits}
        print(json.dumps({"answers": sorted(set(answers)), **counts}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
