"""Names the triggers that the mappings ask for: one per container, and one on the events if there are consumers.

With CROSSFEED_MIRROR_ALL_VERSIONS there is another one per container, for hard deletes alone: their feed begins now and
not at a beginning, so it stands beside the other and never in its place.

Names last: under another lease prefix a container is read from its beginning once more (which changes nothing, and
costs), under another function name the host's own settings of a function are lost.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from core.errors import ConfigurationError
from core.settings import Settings

if TYPE_CHECKING:
    from core.handlers import Handlers
    from core.mappings import Mappings

MAX_NAME: Final = 60
"""The host allows 127 characters; its telemetry and its own leases cut off earlier."""

_LEGAL: Final = re.compile(r"[A-Za-z0-9_-]+")
_ILLEGAL: Final = re.compile(r"[^A-Za-z0-9_-]+")

APP_SETTINGS: Final = (
    "cosmos_database",
    "lease_container",
    "canary_schedule",
    "parked_schedule",
    "reconcile_schedule",
    "retention_schedule",
    "validate_schedule",
)
"""What the host reads by itself, as `%CROSSFEED_…%`: it knows no defaults of ours."""


class Feeds(Enum):
    """What a trigger feeds."""

    MIRROR = "mirror"
    DELETES = "deletes"
    CONSUMERS = "consumers"


@dataclass(frozen=True, slots=True)
class Trigger:
    """One function with a Cosmos DB trigger.

    Args:
        function: its name.
        container: whose change feed it is handed.
        lease_prefix: what its leases begin with.
        feeds: what applies its batches.

    """

    function: str
    container: str
    lease_prefix: str
    feeds: Feeds


def indexed() -> tuple[Settings, tuple[Trigger, ...]]:
    """Return the settings and the triggers of this process, for the host to index.

    Raises:
        ConfigurationError: a setting is missing or wrong. The host reports it and starts nothing, so nothing is lost.

    """
    settings = Settings.load()
    mappings, handlers = settings.load_mappings(), settings.load_consumers()
    check_app_settings(settings, mappings)
    return settings, triggers_of(settings, mappings, handlers)


def triggers_of(settings: Settings, mappings: Mappings, handlers: Handlers | None) -> tuple[Trigger, ...]:
    """Return all triggers of an installation."""
    feeds = (Feeds.MIRROR, Feeds.DELETES) if settings.mirror_all_versions else (Feeds.MIRROR,)
    lower = [container.lower() for container in mappings.containers]
    triggers = [
        Trigger(
            f"{feed.value}_{_slug(container, is_alone=lower.count(container.lower()) == 1)}",
            container,
            f"{feed.value}-{_digest(container)}-",
            feed,
        )
        for feed in feeds
        for container in mappings.containers
    ]
    if handlers is not None:
        # Read from the beginning when a handler joins that wants it: the prefix follows the handlers (core.handlers).
        prefix = f"{handlers.feed_name}-"
        triggers.append(Trigger("consume_events", settings.events_container, prefix, Feeds.CONSUMERS))
    return tuple(triggers)


def check_app_settings(settings: Settings, mappings: Mappings) -> None:
    """Make sure that whatever the host looks up itself is there: it would leave out the function, and say little.

    Raises:
        ConfigurationError: some are missing, or a container's name is one that the host would look up.

    """
    missing = [f"CROSSFEED_{name.upper()}" for name in APP_SETTINGS if name not in settings.model_fields_set]
    if missing:
        msg = f"these application settings must be set, because the Functions host reads them: {', '.join(missing)}"
        raise ConfigurationError(msg)
    # The host would look these up as settings and as binding expressions; there is no way to tell it not to.
    if odd := [container for container in mappings.containers if any(mark in container for mark in "%{}")]:
        msg = f"the Functions host cannot be told of containers with %, {{ or }} in their names: {', '.join(odd)}"
        raise ConfigurationError(msg)


def _slug(container: str, *, is_alone: bool) -> str:
    """Return a container's name if a function may have it as part of its own, else what is left, and a digest.

    Names of functions are compared in any case, those of containers are not.
    """
    if is_alone and len(container) <= MAX_NAME and _LEGAL.fullmatch(container):
        return container
    return f"{_ILLEGAL.sub('_', container)[: MAX_NAME - 7]}_{_digest(container)}"


def _digest(container: str) -> str:
    return hashlib.blake2b(container.encode(), digest_size=4).hexdigest()
