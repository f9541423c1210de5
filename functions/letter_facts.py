"""Says of dead letters what may be shown of them, to programs: never what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.postgres.dead_letter_search import StoredLetter


def facts_of(letter: StoredLetter) -> dict[str, Any]:
    """Return all that a letter says of itself, as JSON values."""
    return {
        "number": letter.number,
        "direction": letter.direction.value,
        "kind": letter.kind,
        "entity": letter.identity.entity,
        "partition_key": letter.identity.partition_key,
        "id": letter.identity.id,
        "reference": letter.reference,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "first_at": letter.first_at.isoformat(),
        "last_at": letter.last_at.isoformat(),
    }
