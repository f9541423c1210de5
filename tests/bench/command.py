"""Runs one of the commands as a process of its own, as it runs in production."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.fleet import environment_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from core.settings import Settings


@asynccontextmanager
async def running(command: str, settings: Settings) -> AsyncIterator[None]:
    """Run `crossfeed COMMAND` while the context is open."""
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).with_name("crossfeed")), command),
            env={**os.environ, **environment_of(settings)},
            stderr=log,
        )
        try:
            yield
        finally:
            process.terminate()
            await process.wait()
