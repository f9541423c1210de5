"""The four phases of a migration, which store is primary in each, and the recorded state of one installation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, assert_never

from core.envelope import Origin

PHASE_AGE_S: Final = 0.2
"""How long a steady phase that was read is believed, in seconds from before it was read; one that drains not at all.

So a flip that comes at least this long after its drain is known to every unit of work that begins after it.
"""


class Phase(IntEnum):
    """The phases in their order; a step goes to a neighbour only."""

    COSMOS_ONLY = 0
    DUAL_WRITE_COSMOS_READ = 1
    DUAL_WRITE_POSTGRES_READ = 2
    POSTGRES_ONLY = 3

    @property
    def label(self) -> str:
        """The name in settings, status and logs, `dual_write_cosmos_read` for example."""
        return self.name.lower()

    @property
    def primary(self) -> Origin:
        """The store that takes the application's writes."""
        match self:
            case Phase.COSMOS_ONLY | Phase.DUAL_WRITE_COSMOS_READ:
                return Origin.COSMOS
            case Phase.DUAL_WRITE_POSTGRES_READ | Phase.POSTGRES_ONLY:
                return Origin.POSTGRES
            case _:
                assert_never(self)

    @classmethod
    def named(cls, label: str) -> Phase:
        """Return the phase with this label.

        Raises:
            ValueError: there is none; the message lists them.

        """
        for phase in cls:
            if phase.label == label:
                return phase
        msg = f"no phase is called {label!r}; there are {', '.join(phase.label for phase in cls)}"
        raise ValueError(msg)


class PhaseState(StrEnum):
    """Whether the phase's primary takes writes."""

    STEADY = "steady"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """What the one phase row in Postgres says."""

    phase: Phase
    epoch: int
    state: PhaseState

    @property
    def primary(self) -> Origin:
        """The store that takes the application's writes."""
        return self.phase.primary
