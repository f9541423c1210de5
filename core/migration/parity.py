"""Says what a comparison of both stores found: every difference by name, and what was counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from datetime import datetime

    from core.identity import Identity
    from core.stamp import Stamp


SETTLED: Final = "it is in step by now"
"""Why a repair leaves a difference alone that is none any more."""


class DifferenceKind(StrEnum):
    """In what way the follower differs from the primary."""

    MISSING = "missing"
    """The primary holds it, the follower does not."""
    EXTRA = "extra"
    """The follower holds it, the primary does not."""
    STALE = "stale"
    """The follower holds another state of it, by its stamp or its `_etag`."""
    DIFFERENT = "different"
    """Stamp and `_etag` say that it is the same state, but the content is another."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One identity that both stores do not hold alike.

    Args:
        identity: whose.
        kind: in what way.
        postgres: the stamp of the row, else of the tombstone, None where there is neither.
        cosmos: the stamp that the document claims, None where there is none, or it claims none.
        fields: the properties that differ, by their names in the document; known only of a deep comparison.
        letter: the number of the dead letter that accounts for it, if there is one.

    """

    identity: Identity
    kind: DifferenceKind
    postgres: Stamp | None
    cosmos: Stamp | None
    fields: tuple[str, ...] = ()
    letter: int | None = None

    def facts(self, *, with_keys: bool) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "entity": self.identity.entity,
            **({"partition_key": self.identity.partition_key} if with_keys else {}),
            "id": self.identity.id,
            "kind": self.kind.value,
            "postgres": None if self.postgres is None else str(self.postgres),
            "cosmos": None if self.cosmos is None else str(self.cosmos),
            "fields": list(self.fields),
            "dead_letter": self.letter,
        }


@dataclass(slots=True)
class EntityParity:
    """What was found of one entity type.

    Args:
        rows: live rows; all of them, also where only some were compared.
        documents: live documents; likewise.
        checked: how many identities were compared.
        total: how many of them differ; may be more than `differences` names.
        accounted: how many of those that differ have a dead letter.
        busy: how many were being written at every look, so that nothing can be said of them.
        differences: those that differ, up to the limit.

    """

    rows: int = 0
    documents: int = 0
    checked: int = 0
    total: int = 0
    accounted: int = 0
    busy: int = 0
    differences: list[Difference] = field(default_factory=list)

    def facts(self, *, with_keys: bool) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "rows": self.rows,
            "documents": self.documents,
            "checked": self.checked,
            "total": self.total,
            "accounted": self.accounted,
            "busy": self.busy,
            "differences": [one.facts(with_keys=with_keys) for one in self.differences],
        }


@dataclass(frozen=True, slots=True)
class Parity:
    """What a comparison found.

    Args:
        as_of: the time in Postgres just before it began: what was changed later may not have been looked at.
        deep: whether contents were compared.
        entities: by entity type.

    """

    as_of: datetime
    deep: bool
    entities: dict[str, EntityParity]

    @property
    def is_equal(self) -> bool:
        """Whether no difference was found, accounted for or not, and nothing was too busy to say."""
        return not any(one.total or one.busy for one in self.entities.values())

    @property
    def unaccounted(self) -> int:
        """How many differences no dead letter accounts for; those that are busy count as such."""
        return sum(one.total - one.accounted + one.busy for one in self.entities.values())

    @property
    def differences(self) -> list[Difference]:
        """Those that are named, of all entity types."""
        return [found for one in self.entities.values() for found in one.differences]

    def facts(self, *, with_keys: bool = True) -> dict[str, Any]:
        """Return it as JSON; without partition keys for what is kept, where nothing erases an e-mail."""
        return {
            "equal": self.is_equal,
            "deep": self.deep,
            "as_of": self.as_of.isoformat(),
            "entities": {name: one.facts(with_keys=with_keys) for name, one in self.entities.items()},
        }
