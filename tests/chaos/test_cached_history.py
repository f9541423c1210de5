"""The histories once more, every process reading through one cache, whose server is killed again and again.

They are judged as without it: whoever reads after a write was acknowledged to anybody sees it, and never goes back.
That is more than the cache promises where Redis is cut off from a writer alone; where it dies, its entries die with it.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from tests.chaos.history_fleet import open_forge
from tests.chaos.history_plan import BRIEF, draw
from tests.chaos.history_run import LEASE_S
from tests.chaos.history_stage import Stage

if TYPE_CHECKING:
    from pathlib import Path

    from core.local.valkey import EmbeddedValkey
    from core.mappings import Mappings
    from tests import stores


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_no_acknowledged_write_is_hidden_by_a_cache_that_dies_now_and_then(  # noqa: PLR0913, PLR0917 - its parts
    postgres_server: stores.PostgresServer,
    copies: stores.Copies,
    cosmos_server: stores.CosmosServer,
    mappings: Mappings,
    tmp_path: Path,
    own_valkey: EmbeddedValkey,
) -> None:
    async def kill_again_and_again() -> None:
        while True:
            await asyncio.sleep(random.uniform(1, 6))
            await asyncio.to_thread(own_valkey.kill)
            await asyncio.sleep(random.uniform(0, 0.5))
            await asyncio.to_thread(own_valkey.start)

    async with open_forge() as forge:
        stage = Stage(postgres_server, copies, cosmos_server, mappings, forge, tmp_path, own_valkey.url)
        killing = asyncio.ensure_future(kill_again_and_again())
        try:
            for walk in BRIEF:
                await stage.play(draw(random.randrange(2**31), walk, lease_s=LEASE_S))
                assert not killing.done(), killing.exception()
        finally:
            killing.cancel()
            await asyncio.gather(killing, return_exceptions=True)
