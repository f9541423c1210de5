"""Counts what a processor did, for logs, metrics and the demo."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from core.postgres.mirrored_batch import Outcome
from core.reservoir import Reservoir

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(slots=True)
class ProcessorStats(Outcome):
    """What a processor did since it was made; what it inherits is the mirror's.

    `documents` and `pages` are of all feeds. `lags` holds seconds from a document's `_ts`, which Cosmos DB keeps in
    whole seconds, to its commit in Postgres. `retries` counts failed attempts by the class of the error.
    `request_units` is what reading was charged.
    """

    documents: int = 0
    pages: int = 0
    splits: int = 0
    request_units: float = 0.0
    retries: Counter[str] = field(default_factory=Counter)
    lags: Reservoir = field(default_factory=Reservoir)

    def page(self, documents: int, lags: Iterable[float]) -> None:
        """Count one committed page."""
        self.pages += 1
        self.documents += documents
        for lag in lags:
            self.lags.add(lag)

    def mirrored(self, outcome: Outcome) -> None:
        """Count what the mirror did with it."""
        for item in fields(Outcome):
            setattr(self, item.name, getattr(self, item.name) + getattr(outcome, item.name))
