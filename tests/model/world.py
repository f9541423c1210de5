"""What the model of the switch is made of: both stores, the row of the phase, and how far every process is."""

from __future__ import annotations

from typing import NamedTuple

COSMOS, POSTGRES = "cosmos", "postgres"


class Record(NamedTuple):
    """A state of the document in either store; `taken` is the `etag` of Cosmos DB that a row was last taken from."""

    epoch: int
    version: int
    writes: tuple[str, ...]
    deleted: bool
    origin: str
    etag: int = 0
    taken: int = 0


class Request(NamedTuple):
    """What was sent to Cosmos DB and has not landed: replace exactly the document with this etag, 0 for none."""

    sender: str
    base: int
    record: Record


class Writer(NamedTuple):
    """A process that writes: what it still wants to do, and how far it is with the first of it."""

    wants: tuple[str, ...]
    at: str = "idle"
    base: int = 0
    record: Record | None = None
    lease: bool = False
    lease_known: bool = False
    epoch: int = 0


class Switch(NamedTuple):
    """The process that switches; `mark` is the position that the follower has to come to."""

    at: str
    mark: int = -1


class Hand(NamedTuple):
    """What mirror or relay has read and not yet written, and in which phase and epoch."""

    primary: str
    epoch: int
    record: Record | None = None
    base: int = 0
    upto: int = 0
    at: str = "read"


class State(NamedTuple):
    """Everything, at one moment."""

    primary: str
    epoch: int
    draining: bool
    switch: Switch | None
    steps: tuple[str, ...]
    crashes: int
    doc: Record | None
    etags: int
    row: Record | None
    outbox: int
    cursor: int
    feed_at: int
    mirror: Hand | None
    relay: Hand | None
    writers: tuple[Writer, ...]
    net: tuple[Request, ...]
    acked: frozenset[str] = frozenset()


class Violation(NamedTuple):
    """A promise that does not hold in a state, and how it came to it."""

    promise: str
    trace: tuple[str, ...]


def beginning(wants: tuple[tuple[str, ...], ...], steps: tuple[str, ...], crashes: int) -> State:
    """Return the state in which one document has crossed, Cosmos DB is primary and nothing has happened yet."""
    doc = Record(1, 1, ("first",), deleted=False, origin=COSMOS, etag=1)
    return State(
        primary=COSMOS,
        epoch=1,
        draining=False,
        switch=None,
        steps=steps,
        crashes=crashes,
        doc=doc,
        etags=1,
        row=doc._replace(etag=0, taken=1),
        outbox=0,
        cursor=0,
        feed_at=1,
        mirror=None,
        relay=None,
        writers=tuple(Writer(one) for one in wants),
        net=(),
    )
