"""Loads legacy documents as the legacy application did: with the plain client, straight into Cosmos DB.

While Cosmos DB is primary this is the primary's own public path, it keeps every awkward spelling to the letter, and it
makes the processor carry what only foreign writers produce: documents without a stamp.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from core.cosmos.failures import DRIVER_ERRORS, write_error
from core.envelope import Origin
from functions.demo.ledger import Kind, Write

if TYPE_CHECKING:
    from core.content import Document
    from core.mapping import EntityMapping
    from functions.demo.ledger import Ledger
    from functions.demo.stores import Stores

CONCURRENCY = 16


async def load(stores: Stores, documents: dict[str, list[Document]], ledger: Ledger) -> None:
    """Create documents, by container, and take down each that Cosmos DB acknowledged.

    Raises:
        CrossfeedError: Cosmos DB refused one, or did not answer.

    """
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one(mapping: EntityMapping[Any], document: Document) -> None:
        async with slots:
            try:
                stored = await stores.cosmos.container(mapping).create_item(document)
            except DRIVER_ERRORS as error:
                raise write_error(error, f"loading {mapping.identity(document)}") from error
            etag = str(stored.get_response_headers()["etag"])
            ledger.acknowledged(
                Write(mapping.identity(document), Kind.CREATE, Origin.COSMOS, None, etag, document, time.perf_counter())
            )

    async with asyncio.TaskGroup() as group:
        for container, items in documents.items():
            for document in items:
                mapping = stores.mappings.mapping_of(container, document)
                if mapping is not None:
                    group.create_task(one(mapping, document))
