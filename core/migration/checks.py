"""What a step's checks are made of: one question, what was found, and what the operator does about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from core.errors import CrossfeedError
from core.phases import Phase

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.settings import Settings

TO_POSTGRES = (Phase.DUAL_WRITE_COSMOS_READ, Phase.DUAL_WRITE_POSTGRES_READ)
"""The step that makes Postgres the primary."""
TO_COSMOS = (Phase.DUAL_WRITE_POSTGRES_READ, Phase.DUAL_WRITE_COSMOS_READ)
"""The step that makes Cosmos DB the primary."""
CLOSING_COSMOS = (Phase.DUAL_WRITE_POSTGRES_READ, Phase.POSTGRES_ONLY)
"""The step after which nobody reads Cosmos DB any more."""
REOPENING_COSMOS = (Phase.POSTGRES_ONLY, Phase.DUAL_WRITE_POSTGRES_READ)
"""The step that brings Cosmos DB up to date again."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question that a step asks before, or while, it is made.

    Args:
        name: a word or two, `lag` for example; the same in every report.
        ok: whether it lets the step go on.
        detail: what was found, without payloads and secrets.
        cure: what the operator does about it; empty where `ok`.

    """

    name: str
    ok: bool
    detail: str
    cure: str = ""


class PreflightOptions(Protocol):
    """What of an operator's word the checks take into account."""

    @property
    def accept_dead_letters(self) -> int:
        """How many dead letters the step may leave behind."""
        ...

    @property
    def writers_restarted(self) -> bool:
        """Whether every writer runs with Postgres, by the operator's word; leaving phase 0 asks for it."""
        ...

    @property
    def foreign_quiet_s(self) -> float:
        """For how long no foreign writer may have written before the primary moves, in seconds."""
        ...

    @property
    def settle_s(self) -> float:
        """How long what is under way may take to arrive before it counts as a difference, in seconds."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """The step that is asked about, and where.

    Args:
        engine: the database.
        store: the account.
        mappings: whose tables and containers.
        settings: the limits.
        phase: the recorded phase.
        to: the phase to step to.
        options: the operator's word.

    """

    engine: AsyncEngine
    store: CosmosStore
    mappings: Mappings
    settings: Settings
    phase: PhaseRow
    to: Phase
    options: PreflightOptions

    @property
    def step(self) -> tuple[Phase, Phase]:
        """From where to where."""
        return self.phase.phase, self.to


def found(name: str, problems: list[str], otherwise: str, cure: str) -> Check:
    """Return the check that has found these problems, or none and what is said then."""
    return Check(name, ok=not problems, detail="; ".join(problems) or otherwise, cure=cure if problems else "")


async def answered(name: str, question: Awaitable[Check], cure: str) -> Check:
    """Return what a question has found; an error of ours is what it found, too."""
    try:
        return await question
    except CrossfeedError as error:
        return Check(name, ok=False, detail=str(error), cure=cure)
