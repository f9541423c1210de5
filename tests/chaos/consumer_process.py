"""A process with consumers: applies the page on stdin (JSON), says when it is in the last handler, and sleeps there.

It runs the handlers of tests.integration.consumer_steps, with the settings of its environment.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

from core.postgres.engine import open_engine
from core.settings import Settings
from tests.integration.consumer_steps import Room, Said

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.handlers import Received


async def main() -> None:
    documents = json.load(sys.stdin)
    settings = Settings.load()

    async def sleep_at_the_last(name: str, received: Received[Said], connection: AsyncConnection) -> None:
        if received.id == documents[-1]["id"] and name == "two":
            print("inside", flush=True)
            await asyncio.sleep(600)

    async with open_engine(settings) as engine:
        await Room(engine, settings, sleep_at_the_last).apply(*documents)


if __name__ == "__main__":
    asyncio.run(main())
