"""The SDK's synchronous client, closed only when nothing of it is at work any more."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from azure.cosmos import CosmosClient

if TYPE_CHECKING:
    from collections.abc import Iterator

PROBE = "cosmos-endpoint-refresh"
"""The thread in which a new client probes its endpoints; a client closed meanwhile leaves the probe's socket open."""


@contextmanager
def sync_client(endpoint: str, key: str) -> Iterator[Any]:
    """Open a client and wait until it has probed the account; tests fail on what is left open."""
    with CosmosClient(endpoint, key) as client:
        for thread in threading.enumerate():
            if thread.name == PROBE:
                thread.join()
        yield client
