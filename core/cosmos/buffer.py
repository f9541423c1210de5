"""Keeps the writes of one unit of work until commit, one per identity, so that reads within the unit see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.entity import Entity, loaded
from core.errors import AlreadyExistsError, ConcurrencyError, CrossPartitionError, PrimaryMovedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.content import Document
    from core.identity import Identity
    from core.mapping import EntityMapping


@dataclass(frozen=True, slots=True)
class Base:
    """The document that a write replaces: exactly the one with this ETag. `carried` are the events in it."""

    etag: str
    version: int
    carried: tuple[Document, ...] = ()


@dataclass(slots=True)
class Pending:
    """A write to send at commit.

    `base` is None where there must be no document, `content` is None for a delete. `holders` are the entity objects
    that stand for this very state: only they may be updated or deleted further in this unit, and become loaded again
    when it is committed.
    """

    mapping: EntityMapping[Any]
    identity: Identity
    base: Base | None
    content: Document | None
    holders: list[Entity]

    @property
    def version(self) -> int:
        """The version of the state to write."""
        return (self.base.version if self.base else 0) + 1


class Buffer:
    """The pending writes of one unit of work, in the order in which their identities were first written.

    Args:
        epoch: the epoch in which they will be stamped.

    """

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._pending: dict[Identity, Pending] = {}

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._pending.values())

    def __len__(self) -> int:
        return len(self._pending)

    def of(self, mapping: EntityMapping[Any]) -> list[Pending]:
        """Return the pending writes of one mapping."""
        return [pending for pending in self if pending.mapping is mapping]

    def at(self, identity: Identity) -> Pending | None:
        """Return the pending write of an identity, or None."""
        return self._pending.get(identity)

    def clear(self) -> None:
        """Forget all of them."""
        self._pending.clear()

    def add(self, mapping: EntityMapping[Any], entity: Entity) -> None:
        """See Repository.add; that there is none in the store yet is found out at commit."""
        content = mapping.document(entity)
        identity = mapping.identity(content)
        pending = self.at(identity)
        if pending is None:
            self._pending[identity] = Pending(mapping, identity, None, content, [entity])
        elif pending.content is not None:
            msg = f"{identity} was written in this unit of work already"
            raise AlreadyExistsError(msg)
        else:  # deleted before in the same unit: the delete never happens
            pending.content, pending.holders = content, [entity]

    def update(self, mapping: EntityMapping[Any], entity: Entity) -> None:
        """See Repository.update."""
        content = mapping.document(entity)
        identity = mapping.identity(content)
        pending = self._current(mapping, entity)
        if pending.identity != identity:
            msg = (
                f"{pending.identity} cannot become {identity}: Cosmos DB fixes a document's id and partition key;"
                " delete the old entity and add the new one, in two units of work"
            )
            raise CrossPartitionError(msg)
        pending.content, pending.holders = content, [entity]
        self._pending[identity] = pending

    def delete(self, mapping: EntityMapping[Any], entity: Entity) -> None:
        """See Repository.delete.

        What was added in the same unit becomes a tombstone, as it does in Postgres: writing it where there must be no
        document is what finds out, atomically, that there was one.
        """
        pending = self._current(mapping, entity)
        pending.content, pending.holders = None, [entity]
        self._pending[pending.identity] = pending

    def _current(self, mapping: EntityMapping[Any], entity: Entity) -> Pending:
        """Return the write that this entity object stands for, a new one if it was read and not written since.

        Raises:
            ConcurrencyError: it was never read, or written by way of another object since.
            PrimaryMovedError: its document was written in a later epoch than this unit's.

        """
        for pending in self:
            if any(holder is entity for holder in pending.holders):
                if pending.content is None:
                    msg = f"{pending.identity} was deleted in this unit of work"
                    raise ConcurrencyError(msg)
                return pending
        state = loaded(entity)
        if state is None or state.etag is None:
            msg = f"{mapping.name} {entity.id!r} was not read from Cosmos DB; read it first"
            raise ConcurrencyError(msg)
        if self.at(state.identity) is not None:
            msg = f"{state.identity} was written in this unit of work by way of another object; read it again"
            raise ConcurrencyError(msg)
        if state.stamp.epoch > self._epoch:
            msg = (
                f"{state.identity} was written in epoch {state.stamp.epoch}, this unit of work is of epoch"
                f" {self._epoch}: the primary has moved"
            )
            raise PrimaryMovedError(msg)
        return Pending(mapping, state.identity, Base(state.etag, state.stamp.version, state.carried), None, [])
