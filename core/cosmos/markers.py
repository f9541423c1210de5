"""Keeps what relays have sent, and whose history it belongs to, in the control container: a Postgres may forget it.

All documents of one database have its instance as their partition key. One is the charter: which history is the valid
one, and the newest epoch, cluster and timeline that a relay has seen. The others are one marker per relay, each with
the newest rows of the log that were sent of every slot. They live for ever: a database may be restored years later.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from azure.core import MatchConditions

from core.cosmos.failures import DRIVER_ERRORS, Changed, Exists, Missing, failure_of, read_error

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy

    from core.content import Document
    from core.cosmos.client import CosmosStore

_CHARTER: Final = "charter"
_VISIT: Final = "visit"
_MARKER: Final = "marker"


@dataclass(frozen=True, slots=True)
class Charter:
    """Which history counts, and how far it has come. `system` is the cluster's identifier, None if it is not known."""

    history: str
    epoch: int
    system: int | None
    timeline: int


class Mark(NamedTuple):
    """A row of the log that was sent: its number, its transaction, and when it was inserted (ISO 8601 with offset)."""

    seq: int
    xid: int
    at: str


@dataclass(frozen=True, slots=True)
class SlotMarks:
    """What was sent of one slot under one lease: the row with the highest number, and the one sent last."""

    token: int
    highest: Mark
    last: Mark


@dataclass(frozen=True, slots=True)
class Marker:
    """What one relay has sent, by slot, and in which history."""

    relay: str
    history: str
    slots: dict[int, SlotMarks] = field(default_factory=dict)
    etag: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Control:
    """Everything that the control container holds of one database."""

    charter: Charter | None
    charter_etag: str | None
    markers: tuple[Marker, ...]


class Markers:
    """The documents of one database in the control container.

    Args:
        store: the opened Cosmos DB database.
        container: the control container's name.
        instance: whose documents.

    """

    def __init__(self, store: CosmosStore, container: str, instance: str) -> None:
        self._store = store
        self._name = container
        self._instance = instance

    async def read(self) -> Control:
        """Return everything that was written before this was called, by whomever.

        A replica that is behind must not answer, so something is written first: a reader of its own write sees all
        the earlier ones of the partition too (at session consistency or stronger).

        Raises:
            StoreUnavailableError: Cosmos DB did not answer, or the container is missing.

        """
        container = await self._container()
        charter, etag = None, None
        markers = []
        try:
            await container.upsert_item(self._document(_VISIT, {}))
            async for item in container.query_items("SELECT * FROM c", partition_key=self._instance):
                if item["id"] == _CHARTER:
                    charter, etag = _charter(item), str(item["_etag"])
                elif item.get("kind") == _MARKER:
                    markers.append(_marker(item))
        except DRIVER_ERRORS as error:
            raise read_error(error, f"reading the markers in {self._name!r}") from error
        return Control(charter, etag, tuple(markers))

    async def write(self, marker: Marker) -> Charter | None:
        """Write a relay's marker; return the charter as it was in that very moment, None if it is gone.

        Raises:
            StoreUnavailableError: it may not have been written.

        """
        container = await self._container()
        seqs = {mark.seq: mark for marks in marker.slots.values() for mark in (marks.highest, marks.last)}
        body = {
            "kind": _MARKER,
            "history": marker.history,
            "slots": {str(slot): [it.token, it.highest.seq, it.last.seq] for slot, it in marker.slots.items()},
            "rows": {str(seq): [str(mark.xid), mark.at] for seq, mark in seqs.items()},
        }
        operations = [("upsert", (self._document(marker.relay, body),)), ("read", (_CHARTER,))]
        try:
            answers = await container.execute_item_batch(operations, partition_key=self._instance)
        except DRIVER_ERRORS as error:
            if isinstance(failure_of(error), Missing):
                return None
            raise read_error(error, f"writing a marker to {self._name!r}") from error
        return _charter(answers[1]["resourceBody"])

    async def grant(self, charter: Charter, etag: str | None) -> bool:
        """Put a charter in the place of the one with this ETag, None: where there is none; False: it is another now.

        Raises:
            StoreUnavailableError: it may or may not have been written; read again.

        """
        container = await self._container()
        body = {
            "kind": _CHARTER,
            "history": charter.history,
            "epoch": charter.epoch,
            "system": None if charter.system is None else str(charter.system),
            "timeline": charter.timeline,
        }
        document = self._document(_CHARTER, body)
        try:
            if etag is None:
                await container.create_item(document)
            else:
                await container.replace_item(
                    _CHARTER, document, etag=etag, match_condition=MatchConditions.IfNotModified
                )
        except DRIVER_ERRORS as error:
            if isinstance(failure_of(error), Exists | Changed | Missing):
                return False
            raise read_error(error, f"writing the charter to {self._name!r}") from error
        return True

    async def raise_epoch(self, epoch: int) -> None:
        """Let the charter know of an epoch that was opened; where there is none, no relay has sent anything yet.

        Raises:
            StoreUnavailableError: it may or may not have been written; repeat.

        """
        while True:
            control = await self.read()
            known = control.charter
            if known is None or known.epoch >= epoch:
                return
            if await self.grant(replace(known, epoch=epoch), control.charter_etag):
                return

    async def remove(self, marker: Marker) -> None:
        """Delete a marker unless its relay has written it since it was read.

        Raises:
            StoreUnavailableError: it may or may not have been deleted.

        """
        container = await self._container()
        try:
            await container.delete_item(
                marker.relay,
                partition_key=self._instance,
                etag=marker.etag,
                match_condition=MatchConditions.IfNotModified,
            )
        except DRIVER_ERRORS as error:
            if not isinstance(failure_of(error), Changed | Missing):
                raise read_error(error, f"deleting a marker from {self._name!r}") from error

    def _document(self, id_: str, body: Document) -> Document:
        return {"id": id_, "instance": self._instance, **body}

    async def _container(self) -> ContainerProxy:
        return await self._store.existing_container_named(self._name, " of the relays' markers")


def _charter(document: Document) -> Charter:
    system = document["system"]
    return Charter(
        document["history"], int(document["epoch"]), None if system is None else int(system), int(document["timeline"])
    )


def _marker(document: Document) -> Marker:
    rows: dict[str, Any] = document["rows"]

    def mark(seq: int) -> Mark:
        xid, at = rows[str(seq)]
        return Mark(seq, int(xid), at)

    slots = {
        int(slot): SlotMarks(token, mark(highest), mark(last))
        for slot, (token, highest, last) in document["slots"].items()
    }
    return Marker(document["id"], document["history"], slots, document["_etag"])
