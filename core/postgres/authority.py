"""Decides what a document from the change feed may do to Postgres: pure rules, no I/O.

While Cosmos DB is primary a change is judged by its position (`_ts`, `_lsn`) against what was last taken; while
Postgres is primary, by who wrote it. Two rules go beyond comparing positions:

- A row (or tombstone) of an earlier epoch was last written while Postgres was primary, so the position it took says
  nothing about what happened since: a feed batch that slept through two switches could carry an old state with a newer
  position. Only a document of ours from the current epoch is believed; any other is read by key first.
- Two point reads within one second cannot be told apart by `_ts`. A point read is therefore made while the identity's
  lock is held: it is later than everything taken before, and its finding is applied. But a replica that is behind may
  answer it, and a reader that has just started has no session that forbids it: so the `_lsn` that a point read counts
  with is how far its replica was, which is past this document's own and before all of its later ones; one that is not
  as far as what was taken is behind (`is_behind`).

Equal stamps are not believed to mean equal states: a foreign writer may have kept our stamp while changing the content,
and our next writer counts on from it. Equal content under an equal stamp is the same state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, assert_never

from core.content import content_of, spelled
from core.envelope import Author, Foreign, Internal, Origin, Ours, author_of, is_deleted
from core.errors import DocumentRefusedError
from core.stamp import AFTER_ALL, Position, Stamp, position_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.content import Document
    from core.identity import Identity
    from core.phases import PhaseRow
    from core.postgres.held import Held


@dataclass(frozen=True)
class Change:
    """A document as the change feed, or a point read, showed it.

    Who wrote it is found out when it is first asked for: it costs more than all the rest, and Postgres can be at work
    meanwhile.
    """

    identity: Identity
    document: Document
    etag: str
    position: Position
    deleted: bool
    departed: bool = False
    """The document is of another type: all that it says of this identity is that its entity is not there."""

    @classmethod
    def of(cls, identity: Identity, document: Document) -> Change:
        """Take a document with its system properties; one without `_lsn` came from a reader that knows none."""
        return cls(identity, document, str(document.get("_etag", "")), position_of(document), is_deleted(document))

    @classmethod
    def departed_from(cls, identity: Identity, document: Document) -> Change:
        """Take a document of another type that stands where an entity would."""
        return replace(cls.of(identity, document), deleted=True, departed=True)

    @property
    def author(self) -> Author:
        """Who wrote it, by its hash."""
        return self._known[0]

    @property
    def is_sound(self) -> bool:
        """Whether the content passes `check_values` for certain; most do, and it is found out with their hash."""
        return self._known[1]

    @cached_property
    def _known(self) -> tuple[Author, bool]:
        try:
            canonical, is_sound = spelled(content_of(self.document))
        except DocumentRefusedError:
            canonical, is_sound = None, False
        return author_of(self.document, canonical), is_sound


@dataclass(frozen=True, slots=True)
class Ignore:
    """Nothing to do: known already, an echo of our own relay, or one of our own documents."""


@dataclass(frozen=True, slots=True)
class Take:
    """Postgres holds this very state; remember that Cosmos DB shows it under this etag and position."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Write the state (or its delete) under this stamp."""

    stamp: Stamp


@dataclass(frozen=True, slots=True)
class ReadByKey:
    """The change alone does not say what is current: read the document by its key under the identity's lock."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A write that Cosmos DB was not entitled to take: keep it as a dead letter and heal the document."""

    kind: str


Decision = Ignore | Take | Apply | ReadByKey | Quarantine

LATE_WRITE = "late_write"
ROGUE_WRITE = "rogue_write"


def decide(
    change: Change, held: Held, phase: PhaseRow, same_content: Callable[[], bool], *, confirmed: bool = False
) -> Decision:
    """Say what a change may do.

    Args:
        change: what the feed or a point read showed.
        held: what Postgres holds of the identity, read under the identity's lock.
        phase: the recorded phase, read under the tables' locks.
        same_content: whether what is held has the content of the change (asked only where it matters).
        confirmed: the change is a point read made under the identity's lock.

    """
    if isinstance(change.author, Internal) or _is_known(change, held):
        return Ignore()
    if change.departed and held.live_row is None:
        return Ignore()
    match phase.primary:
        case Origin.COSMOS:
            return _cosmos_is_primary(change, held, phase.epoch, same_content, confirmed=confirmed)
        case Origin.POSTGRES:
            return _postgres_is_primary(change, confirmed=confirmed)
        case _:
            assert_never(phase.primary)


def is_behind(found: Change, change: Change, held: Held) -> bool:
    """Say whether the point read `found` is older than the `change` that asked for it, or than what was taken."""
    taken = held.taken
    if taken is not None and found.position.lsn < taken.lsn < AFTER_ALL and not _is_known(found, held):
        return True
    if found.etag == change.etag:
        return False
    return found.position.ts < change.position.ts or found.position.lsn < change.position.lsn < AFTER_ALL


def _is_known(change: Change, held: Held) -> bool:
    """The same `_etag` as last taken; a tombstone's only while no row is newer, and the other way round."""
    current = held.live_row or held.tombstone or held.row
    return current is not None and current.taken_etag == change.etag


def _cosmos_is_primary(
    change: Change, held: Held, epoch: int, same_content: Callable[[], bool], *, confirmed: bool
) -> Decision:
    if held.stamp is None:
        return Apply(_stamp_for(change, held, epoch))
    ours = change.author if isinstance(change.author, Ours) else None
    if ours is not None and ours.stamp == held.stamp and same_content():
        # A foreign writer may have written this very state twice: what was taken must not go back to the first time.
        return Take() if confirmed or held.taken is None or change.position > held.taken else ReadByKey()
    if confirmed:
        return Apply(_stamp_for(change, held, epoch))
    if ours is not None and ours.stamp.epoch == epoch > held.stamp.epoch:
        return Apply(ours.stamp)
    if held.stamp.epoch != epoch or held.taken is None or change.position <= held.taken:
        # Nor does the same content mean that it is the older one: the clock may have stepped back between two writes.
        return ReadByKey()
    return Apply(_stamp_for(change, held, epoch))


def _stamp_for(change: Change, held: Held, epoch: int) -> Stamp:
    """Ours with a newer stamp gives its stamp; a foreign one, or ours not newer, the next one of this epoch."""
    version = held.stamp.version if held.stamp is not None else 0
    following = Stamp(epoch, version + 1)
    if isinstance(change.author, Ours) and (held.stamp is None or change.author.stamp > held.stamp):
        return change.author.stamp
    return following


def _postgres_is_primary(change: Change, *, confirmed: bool) -> Decision:
    match change.author:
        case Internal():
            return Ignore()
        case Ours():
            if change.author.origin is Origin.POSTGRES:
                return Ignore()
            return Quarantine(LATE_WRITE) if confirmed else ReadByKey()
        case Foreign():
            return Quarantine(ROGUE_WRITE) if confirmed else ReadByKey()
        case _:
            assert_never(change.author)
