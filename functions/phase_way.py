"""The two directions in which a phase may be left."""

from __future__ import annotations

from enum import StrEnum

from core.errors import ConflictError
from core.phases import Phase


class Way(StrEnum):
    """In which direction a step goes."""

    ADVANCE = "advance"
    BACK = "back"

    def of(self, phase: Phase) -> Phase:
        """Return the neighbouring phase.

        Raises:
            ConflictError: this is the last one.

        """
        to = phase + (1 if self is Way.ADVANCE else -1)
        if to not in set(Phase):
            msg = f"{phase.label} is the {'last' if self is Way.ADVANCE else 'first'} phase: there is no step {self}"
            raise ConflictError(msg)
        return Phase(to)
