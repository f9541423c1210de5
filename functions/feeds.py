"""The Cosmos DB triggers, one per mapped container and one for the consumers of events: their bindings and policies.

A trigger without an infinite retry loses the batch that it fails at, because the host moves the lease on; so whatever
is registered here has one, and a test asks the real worker library for it.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

import azure.functions as func
import structlog

from core.cosmos.feed_all_versions import MODE
from functions.runtime import RUNTIME, Runtime
from functions.trigger_batches import take
from functions.triggers import Feeds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from core.settings import Settings
    from functions.triggers import Trigger

log = structlog.get_logger()

CONNECTION: Final = "COSMOS"
"""The prefix of the host's own connection: `COSMOS__accountEndpoint` and `COSMOS__credential`, or a whole `COSMOS`."""

FOR_EVER: Final = "-1"
"""The host tries again without end, and that lease waits; any other number ends with the batch lost."""
RETRY_FIRST: Final = "00:00:01"
RETRY_MOST: Final = "00:01:00"


def blueprint(settings: Settings, triggers: Iterable[Trigger], runtime: Runtime = RUNTIME) -> func.Blueprint:
    """Return the functions of all triggers.

    Args:
        settings: how large a batch may be; whatever is a text the host looks up itself.
        triggers: from functions.triggers.
        runtime: the connections.

    """
    found = func.Blueprint()
    for trigger in triggers:
        if trigger.feeds is Feeds.DELETES and not _knows_modes(found):
            log.warning("trigger.left_out", function=trigger.function, why="this azure-functions knows no such feed")
            continue
        with_name = found.function_name(trigger.function)
        with_trigger = found.cosmos_db_trigger(**_binding(trigger, settings))
        with_retry = found.retry(
            strategy="exponential_backoff",
            max_retry_count=FOR_EVER,
            minimum_interval=RETRY_FIRST,
            maximum_interval=RETRY_MOST,
        )
        with_name(with_trigger(with_retry(_handler(runtime, trigger))))
    return found


def _binding(trigger: Trigger, settings: Settings) -> dict[str, Any]:
    common = {
        "arg_name": "payload",
        "connection": CONNECTION,
        "database_name": "%CROSSFEED_COSMOS_DATABASE%",
        "container_name": trigger.container,
        "lease_connection": CONNECTION,
        "lease_database_name": "%CROSSFEED_COSMOS_DATABASE%",
        "lease_container_name": "%CROSSFEED_LEASE_CONTAINER%",
        # An Entra identity may not create it; who is asked for it is told by functions.runtime.
        "create_lease_container_if_not_exists": False,
        "lease_container_prefix": trigger.lease_prefix,
        "max_items_per_invocation": settings.mirror_page_size,
    }
    if trigger.feeds is Feeds.DELETES:
        return {**common, "change_feed_mode": MODE}
    return {**common, "start_from_beginning": True}


def _knows_modes(blueprint: func.Blueprint) -> bool:
    return "change_feed_mode" in inspect.signature(blueprint.cosmos_db_trigger).parameters


def _handler(runtime: Runtime, trigger: Trigger) -> Callable[[str, func.Context], Awaitable[None]]:
    # As a text: the library's own documents are read by a JSON that refuses what a foreign writer may have stored, and
    # a batch that cannot be read would block its lease for ever.
    async def handler(payload: str, context: func.Context) -> None:
        await take(runtime, trigger, payload, context.retry_context.retry_count)

    return handler
