"""Serves the embedded Cosmos DB until standard input is closed: it ends with whoever started it, however that ends."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

from core.local.cosmos import CosmosServer

if TYPE_CHECKING:
    from core.local.cosmos.messages import Request


class _Emulator(CosmosServer):
    """Names one address, whatever address it was asked at, as Microsoft's does: some tests tell two regions by that."""

    def _endpoint_for(self, request: Request) -> str:
        return self.endpoint


async def _serve(port: int) -> None:
    async with _Emulator("127.0.0.1", port, tls=True) as server:
        print(json.dumps({"endpoint": server.endpoint, "key": server.key}), flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
