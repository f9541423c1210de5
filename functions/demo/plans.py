"""What a demo is made of: which documents are loaded, who writes while the phases change, and what else happens."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from core.domain.mappings import MAPPINGS
from core.domain.samples import sample_documents
from core.domain.tables import metadata as domain_tables
from core.envelope import Origin
from core.mappings import Mappings
from core.phases import Phase
from functions.demo.population import Population
from functions.demo.touch import touch_all
from functions.demo.traffic import Traffic

if TYPE_CHECKING:
    import sqlalchemy as sa

    from core.content import Document
    from functions.demo.ledger import Ledger
    from functions.demo.recording import Recorder
    from functions.demo.stores import Stores

_COSMOS_VISITS = 4
"""Before the walk, on the way there, on the way back, and at the end: 0, 1, 1, 0."""
_POSTGRES_VISITS = 3


@dataclass(frozen=True, slots=True)
class Scene:
    """What happens may use this."""

    stores: Stores
    recorder: Recorder
    ledger: Ledger


class Plan(Protocol):
    """One kind of demo. `documents` are loaded by container before the phases are walked through."""

    mappings: Mappings
    metadata: sa.MetaData
    documents: dict[str, list[Document]]

    def stay_s(self, phase: Phase) -> float | None:
        """Return how long a visit of a phase takes, in seconds, None if nobody knows before."""
        ...

    async def live(self, scene: Scene, stop: asyncio.Event) -> None:
        """Write until the event is set, whatever phase it is; called again after each look at the stores."""
        ...

    async def visit(self, scene: Scene, phase: Phase) -> None:
        """Stay in a phase, while others write; come back when it is time for the next."""
        ...


class DomainPlan:
    """The example domain: sample documents, then use cases on whichever store is the primary.

    Args:
        count: how many documents are loaded.
        seconds: how long each store is the primary, all its phases together, switches apart.
        seed: of documents and use cases.

    """

    def __init__(self, count: int = 2000, seconds: float = 10.0, seed: int = 1) -> None:
        self.mappings = Mappings(MAPPINGS)
        self.metadata = domain_tables
        self.documents = sample_documents(count, seed)
        self._seconds = seconds
        self._rng = random.Random(seed)  # noqa: S311 - nothing secret
        self._people = Population(self._rng)
        self._people.settle(self.documents)
        self._times = 0

    def stay_s(self, phase: Phase) -> float:
        """See Plan."""
        return self._seconds / (_POSTGRES_VISITS if phase.primary is Origin.POSTGRES else _COSMOS_VISITS)

    async def live(self, scene: Scene, stop: asyncio.Event) -> None:
        """See Plan."""
        self._times += 1
        await Traffic(scene.recorder, self._people, self._rng, f"t{self._times}").run(stop)

    async def visit(self, scene: Scene, phase: Phase) -> None:
        """See Plan."""
        await asyncio.sleep(self.stay_s(phase))


class DocumentsPlan:
    """A user's own documents: into Cosmos DB and over to Postgres, there touched, and so back.

    Args:
        mappings: the generic mapping (functions.demo.documents.generic_mapping).
        metadata: its table.
        documents: checked (functions.demo.documents.read_documents).

    """

    def __init__(self, mappings: Mappings, metadata: sa.MetaData, documents: list[Document]) -> None:
        [mapping] = mappings
        self.mappings = mappings
        self.metadata = metadata
        self.documents = {mapping.container: documents}

    def stay_s(self, phase: Phase) -> float | None:
        """See Plan."""

    async def live(self, scene: Scene, stop: asyncio.Event) -> None:
        """See Plan: nobody knows what these documents are for."""

    async def visit(self, scene: Scene, phase: Phase) -> None:
        """See Plan: touch every document where Postgres alone takes writes, so that all of them have to be sent."""
        if phase is Phase.POSTGRES_ONLY:
            for mapping in self.mappings:
                await touch_all(scene.stores, mapping, scene.ledger)
