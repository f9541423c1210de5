"""Counts what a processor did, for logs, metrics and the demo."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from core.postgres.guarded import Outcome
from core.reservoir import Reservoir

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(slots=True)
class ProcessorStats:
    """What a processor did since it was made. All but `events`, `lags` and `retries` count documents.

    `lags` holds seconds from a document's `_ts`, which Cosmos DB keeps in whole seconds, to its commit in Postgres.
    `retries` counts failed attempts by the class of the error.
    """

    documents: int = 0
    applied: int = 0
    buried: int = 0
    taken: int = 0
    ignored: int = 0
    quarantined: int = 0
    dead_lettered: int = 0
    reads_by_key: int = 0
    events: int = 0
    pages: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    lags: Reservoir = field(default_factory=Reservoir)

    def add(self, outcome: Outcome, documents: int, lags: Iterable[float]) -> None:
        """Count one committed page."""
        self.pages += 1
        self.documents += documents
        for item in fields(Outcome):
            setattr(self, item.name, getattr(self, item.name) + getattr(outcome, item.name))
        for lag in lags:
            self.lags.add(lag)
