"""Sends a translated question to a container, and yields what it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from core.cosmos.documents import key_value
from core.cosmos.failures import DRIVER_ERRORS, read_error

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from azure.cosmos.aio import ContainerProxy

    from core.cosmos.sql import Statement

PAGE_SIZE: Final = 100


async def answers(container: ContainerProxy, statement: Statement) -> AsyncGenerator[Any]:
    """Yield the documents, or values, that a SELECT finds.

    Args:
        container: that is there.
        statement: from core.cosmos.sql.

    Raises:
        StoreUnavailableError: Cosmos DB did not answer.

    """
    scope = {} if statement.partition is None else {"partition_key": key_value(statement.partition)}
    found = container.query_items(
        query=statement.text, parameters=statement.parameters, max_item_count=PAGE_SIZE, **scope
    )
    try:
        async for one in found:
            yield one
    except DRIVER_ERRORS as error:
        raise read_error(error, f"querying {container.id!r}") from error
