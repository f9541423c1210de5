"""However reads, writes, losses, evictions and restarts interleave, nobody is shown what is older than he has seen."""

from __future__ import annotations

import itertools
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings

from core.cache import entries, seen
from tests.integration.cache_steps import open_client
from tests.integration.cache_world import STEPS, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.local.valkey import EmbeddedValkey
    from tests.integration.cache_steps import Client

_numbers = itertools.count()


@pytest.fixture
async def processes(
    opened: AsyncEngine, own_valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Client]]:
    """Three processes, one with a short memory; on one machine clocks need no margin, and closing takes no time."""
    monkeypatch.setattr(seen, "MARGIN_S", 0.003)
    monkeypatch.setattr(entries, "CLOSED_S", 0.003)
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                open_client(opened, own_valkey, cache_remembered=size, cache_wait_ms=5, cache_load_s=30)
            )
            for size in (1, 1000, 1000)
        ]


@hypothesis_settings(max_examples=12)
@given(steps=STEPS)
async def test_nobody_is_shown_what_is_older_than_he_has_seen(
    processes: list[Client], own_valkey: EmbeddedValkey, steps: list[tuple[str, int, str]]
) -> None:
    await World(processes, own_valkey, next(_numbers)).run(steps)


@pytest.mark.chaos  # the same for longer
@pytest.mark.timeout(900)
@hypothesis_settings(max_examples=500)
@given(steps=STEPS)
async def test_nobody_is_ever_shown_what_is_older_than_he_has_seen(
    processes: list[Client], own_valkey: EmbeddedValkey, steps: list[tuple[str, int, str]]
) -> None:
    await World(processes, own_valkey, next(_numbers)).run(steps)
    assert sum(client.hits for client in processes) or len(steps) < 20
