"""Says what a page of the change feed means for the cache, which holds what Cosmos DB says while it is the primary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cache.changes import Changed
from core.content import content_of
from core.envelope import Internal, Origin, Ours

if TYPE_CHECKING:
    from collections.abc import Iterable

    from core.identity import Identity
    from core.phases import PhaseRow
    from core.postgres.authority import Change


def changes_of(shown: Iterable[Change], phase: PhaseRow) -> list[Changed]:
    """Return what changed for those who read.

    While Postgres is the primary that is nothing: its own states come back as echoes, what others wrote is not
    believed, and where it is healed the relay says so. A stamp is passed on if the hash bears it out: one that a
    foreign writer copied would let what is cached under it live on.

    Args:
        shown: the newest change of each document of the page.
        phase: in which the page was applied.

    """
    if phase.primary is not Origin.COSMOS:
        return []
    return [_changed(change) for change in shown if not isinstance(change.author, Internal)]


def vanished(identities: Iterable[Identity], phase: PhaseRow) -> list[Changed]:
    """Return documents that foreign writers deleted, and whose tombstones are Postgres' alone."""
    if phase.primary is not Origin.COSMOS:
        return []
    return [Changed(identity, None, deleted=False) for identity in identities]


def _changed(change: Change) -> Changed:
    author = change.author
    stamp = author.stamp if isinstance(author, Ours) and not change.departed else None
    deleted = change.deleted and stamp is not None
    return Changed(change.identity, stamp, deleted, None if change.deleted else content_of(change.document))
