"""What a demo is made of: which documents are loaded, in which phases something happens to them, and what."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from core.domain.mappings import MAPPINGS
from core.domain.samples import sample_documents
from core.domain.tables import metadata as domain_tables
from core.mappings import Mappings
from core.phases import Phase
from functions.demo.population import Population
from functions.demo.touch import touch_all
from functions.demo.traffic import Traffic

if TYPE_CHECKING:
    import sqlalchemy as sa

    from core.content import Document
    from core.phases import PhaseRow
    from functions.demo.ledger import Ledger
    from functions.demo.recording import Recorder
    from functions.demo.stores import Stores


@dataclass(frozen=True, slots=True)
class Scene:
    """What happens in one phase may use this."""

    stores: Stores
    recorder: Recorder
    ledger: Ledger
    phase: PhaseRow


class Plan(Protocol):
    """One kind of demo. `documents` are loaded by container; then `act` is called in each of `phases`.

    `seconds` is how long `act` takes, None if nobody knows before.
    """

    mappings: Mappings
    metadata: sa.MetaData
    documents: dict[str, list[Document]]
    phases: tuple[Phase, ...]
    seconds: float | None

    async def act(self, scene: Scene) -> None:
        """Write, on the primary, until everything is acknowledged."""
        ...


class DomainPlan:
    """The example domain: sample documents, then use cases on either store.

    Args:
        count: how many documents are loaded.
        seconds: how long each store is the primary of the use cases.
        seed: of documents and use cases.

    """

    def __init__(self, count: int = 2000, seconds: float = 10.0, seed: int = 1) -> None:
        self.mappings = Mappings(MAPPINGS)
        self.metadata = domain_tables
        self.documents = sample_documents(count, seed)
        self.phases: tuple[Phase, ...] = (Phase.DUAL_WRITE_POSTGRES_READ, Phase.DUAL_WRITE_COSMOS_READ)
        self.seconds: float | None = seconds
        self._length = seconds
        self._rng = random.Random(seed)  # noqa: S311 - nothing secret
        self._people = Population(self._rng)
        self._people.settle(self.documents)

    async def act(self, scene: Scene) -> None:
        """See Plan."""
        traffic = Traffic(scene.recorder, scene.phase.primary, self._people, self._rng, f"e{scene.phase.epoch}")
        await traffic.run(self._length)


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
        self.phases: tuple[Phase, ...] = (Phase.DUAL_WRITE_POSTGRES_READ,)
        self.seconds: float | None = None

    async def act(self, scene: Scene) -> None:
        """See Plan."""
        for mapping in self.mappings:
            await touch_all(scene.stores, mapping, scene.ledger)
