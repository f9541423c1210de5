"""Crossfeed's public API; each name is imported when it is first used, so that a process pays for what it needs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.children import ChildTable
    from core.crossfeed import Crossfeed
    from core.discriminator import Discriminator
    from core.entity import Entity
    from core.errors import (
        AlreadyExistsError,
        ConcurrencyError,
        ConfigurationError,
        ConflictError,
        CrossfeedError,
        CrossPartitionError,
        DocumentRefusedError,
        MappingError,
        NotFoundError,
        OutcomeUnknownError,
        PermanentError,
        PhasePinnedError,
        PrimaryMovedError,
        SchemaError,
        StoreUnavailableError,
        TransientError,
    )
    from core.events import Event, EventRegistry
    from core.handlers import Handlers, Received, Start
    from core.identity import ANYWHERE, Identity
    from core.instant import Instant
    from core.lookup import Lookup
    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.phases import Phase, PhaseRow, PhaseState
    from core.postgres.events import record
    from core.query import Before, Equals, NotBefore, OneOf, Order, Query
    from core.repository import EntityRepository, Repository, UnitOfWork
    from core.settings import Settings
    from core.stamp import Stamp

__all__ = [
    "ANYWHERE",
    "AlreadyExistsError",
    "Before",
    "ChildTable",
    "ConcurrencyError",
    "ConfigurationError",
    "ConflictError",
    "CrossPartitionError",
    "Crossfeed",
    "CrossfeedError",
    "Discriminator",
    "DocumentRefusedError",
    "Entity",
    "EntityMapping",
    "EntityRepository",
    "Equals",
    "Event",
    "EventRegistry",
    "Handlers",
    "Identity",
    "Instant",
    "Lookup",
    "MappingError",
    "Mappings",
    "NotBefore",
    "NotFoundError",
    "OneOf",
    "Order",
    "OutcomeUnknownError",
    "PermanentError",
    "Phase",
    "PhasePinnedError",
    "PhaseRow",
    "PhaseState",
    "PrimaryMovedError",
    "Query",
    "Received",
    "Repository",
    "SchemaError",
    "Settings",
    "Stamp",
    "Start",
    "StoreUnavailableError",
    "TransientError",
    "UnitOfWork",
    "record",
]

_HOMES = {
    "core.crossfeed": ("Crossfeed",),
    "core.discriminator": ("Discriminator",),
    "core.entity": ("Entity",),
    "core.events": ("Event", "EventRegistry"),
    "core.handlers": ("Handlers", "Received", "Start"),
    "core.identity": ("ANYWHERE", "Identity"),
    "core.instant": ("Instant",),
    "core.children": ("ChildTable",),
    "core.lookup": ("Lookup",),
    "core.mapping": ("EntityMapping",),
    "core.mappings": ("Mappings",),
    "core.postgres.events": ("record",),
    "core.phases": ("Phase", "PhaseRow", "PhaseState"),
    "core.query": ("Before", "Equals", "NotBefore", "OneOf", "Order", "Query"),
    "core.repository": ("EntityRepository", "Repository", "UnitOfWork"),
    "core.settings": ("Settings",),
    "core.stamp": ("Stamp",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the names above
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    # Whatever has no other home is an error.
    value = getattr(importlib.import_module(_HOME_OF.get(name, "core.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
