"""A small model of switch, fence, lease, mirror, relay and tombstone: one document, every interleaving.

What is modelled, and where the real thing is:

    writer    on Cosmos DB: lease, read, send, land, answer (core.cosmos.write_gate); on Postgres: one statement and its
              commit, which the fence refuses or the drain waits for (migrations.phases_0001)
    relay     load the row, look at the document, send conditionally, advance the cursor (outbox, core.cosmos.guarded)
    mirror    read the phase, read the feed, then in one transaction: lock, read the phase again, decide, write
              (core.postgres.guarded, core.postgres.authority)
    switch    drain, wait for leases, mark the source's position, wait for the barrier, flip; it may crash anywhere, and
              is then resumed or cancelled (core.migration.switch)

Requests that were sent may land at any time later, also after their sender has died; leases may run out at any time.
A record carries, as a ghost, the writes that led to it. `Rules` takes one safeguard away, so that it is seen to be one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.model.world import COSMOS, POSTGRES, Hand, Record, Request, State, Switch, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Become = Callable[..., State]


@dataclass(frozen=True)
class Rules:
    """Which safeguards are in force."""

    fence: bool = True
    barrier: bool = True
    position_after_drain: bool = True
    lease_deadline: bool = True
    tombstone: bool = True
    epoch: bool = True
    lock_then_read: bool = True
    look_again_in_flip: bool = True


@dataclass(frozen=True)
class Protocol:
    """All that may happen next, under some rules."""

    rules: Rules = field(default_factory=Rules)

    def following(self, s: State) -> Iterator[tuple[str, State]]:
        """Yield every step that may be taken, by its name."""
        for number in range(len(s.writers)):
            yield from self._writer(s, number)
        yield from self._network(s)
        yield from self._mirror(s)
        yield from self._relay(s)
        yield from self._switch(s)

    # -- order

    def _newer(self, one: Record, other: Record) -> bool:
        if self.rules.epoch:
            return (one.epoch, one.version) > (other.epoch, other.version)
        return one.version > other.version

    # -- writers

    def _writer(self, s: State, number: int) -> Iterator[tuple[str, State]]:
        def become(writer: Writer, **changes: object) -> State:
            writers = (*s.writers[:number], writer, *s.writers[number + 1 :])
            return s._replace(writers=writers, **changes)  # type: ignore[arg-type]

        writer, name = s.writers[number], f"writer {number}"
        yield from self._lease(s, writer, name, become)
        if writer.wants:
            yield from self._on_cosmos(s, writer, name, become)
            yield from self._on_postgres(s, writer, name, become)

    def _lease(self, s: State, w: Writer, name: str, become: Become) -> Iterator[tuple[str, State]]:
        if w.lease:
            yield f"the lease of {name} runs out", become(w._replace(lease=False))
        # Postgres counts from later on than the writer does, and nobody hands it back while a write is under way.
        elif w.lease_known and (w.at in {"idle", "sent"} or not self.rules.lease_deadline):
            yield f"Postgres sees that the lease of {name} is over", become(w._replace(lease_known=False))
        if w.at == "idle" and w.wants and not w.lease and s.primary == COSMOS and not s.draining:
            yield f"{name} renews", become(w._replace(lease=True, lease_known=True, epoch=s.epoch))

    def _on_cosmos(self, s: State, w: Writer, name: str, become: Become) -> Iterator[tuple[str, State]]:
        want, may_write = w.wants[0], w.lease or not self.rules.lease_deadline
        done = w._replace(at="idle", record=None, wants=w.wants[1:])
        match w.at:
            case "idle" if w.lease and _is_possible(want, s.doc):
                record, base = _changed(s.doc, want, w.epoch, COSMOS), s.doc.etag if s.doc is not None else 0
                yield f"{name} reads", become(w._replace(at="read", base=base, record=record))
            case "read" if may_write and w.record is not None:
                net = (*s.net, Request(name, w.base, w.record))
                yield f"{name} sends {want}", become(w._replace(at="sent"), net=net)
            case "read":
                yield f"{name} gives up", become(w._replace(at="idle", record=None))
            case "landed" if may_write:
                yield f"{name} is told that {want} is done", become(done, acked=s.acked | {want})
            case "landed":
                yield f"{name} does not know of {want}", become(done)
            case "refused":
                yield f"{name} is refused {want}", become(w._replace(at="idle", record=None))
            case _:
                pass

    def _on_postgres(self, s: State, w: Writer, name: str, become: Become) -> Iterator[tuple[str, State]]:
        want = w.wants[0]
        if w.at == "statement" and w.record is not None:
            row = w.record if self.rules.tombstone or not w.record.deleted else None
            done = w._replace(at="idle", record=None, wants=w.wants[1:])
            yield f"{name} commits {want}", become(done, row=row, outbox=s.outbox + 1, acked=s.acked | {want})
        takes_writes = s.primary == POSTGRES and not (s.draining and self.rules.fence)
        if w.at == "idle" and not w.lease and takes_writes and not _is_locked(s) and _is_possible(want, s.row):
            taken = s.row.taken if s.row is not None else 0
            record = _changed(s.row, want, s.epoch, POSTGRES)._replace(taken=taken)
            yield f"{name} writes {want} in Postgres", become(w._replace(at="statement", record=record))

    def _network(self, s: State) -> Iterator[tuple[str, State]]:
        for place, request in enumerate(s.net):
            net = (*s.net[:place], *s.net[place + 1 :])
            lands = (s.doc.etag if s.doc is not None else 0) == request.base
            after = s._replace(net=net)
            if lands:
                gone = request.record.deleted and not self.rules.tombstone
                doc = None if gone else request.record._replace(etag=s.etags + 1, taken=0)
                after = after._replace(doc=doc, etags=s.etags + 1)
            yield f"a request of {request.sender} {'lands' if lands else 'is refused'}", _told(after, request, lands)

    # -- the mirror

    def _mirror(self, s: State) -> Iterator[tuple[str, State]]:
        hand = s.mirror
        if hand is None:
            if s.doc is not None and s.doc.etag > s.feed_at:
                yield "the mirror reads the phase", s._replace(mirror=Hand(s.primary, s.epoch, at="phase"))
        elif hand.at == "phase":
            if s.doc is not None:
                yield "the mirror reads the feed", s._replace(mirror=hand._replace(record=s.doc, at="read"))
            else:
                yield "the mirror finds nothing", s._replace(mirror=None)
        elif hand.record is not None:
            if _is_locked(s):
                return
            moved = (hand.primary, hand.epoch) != (s.primary, s.epoch)
            if moved and self.rules.lock_then_read:
                yield "the mirror finds the phase moved", s._replace(mirror=None)
                return
            after = s._replace(mirror=None, feed_at=max(s.feed_at, hand.record.etag))
            yield "the mirror commits", self._applied(after, hand)

    def _applied(self, s: State, hand: Hand) -> State:
        change, row = hand.record, s.row
        assert change is not None
        if row is not None and row.taken == change.etag:
            return s
        if hand.primary == COSMOS:
            if row is not None and not self._newer(change, row):
                if s.doc is None or s.doc.etag == row.taken:  # read again by its key, under the lock
                    return s
                change = s.doc
                if not self._newer(change, row):
                    change = change._replace(epoch=hand.epoch, version=max(row.version, change.version) + 1)
            gone = change.deleted and not self.rules.tombstone
            return s._replace(row=None if gone else change._replace(taken=change.etag, etag=0))
        if change.origin == POSTGRES or s.doc is None or s.doc.etag != change.etag:
            return s
        # A late write: kept aside, and what Postgres holds is published once more.
        if row is None:
            return s
        return s._replace(
            row=row._replace(epoch=s.epoch, version=row.version + 1, origin=POSTGRES), outbox=s.outbox + 1
        )

    # -- the relay

    def _relay(self, s: State) -> Iterator[tuple[str, State]]:
        hand = s.relay
        if hand is None:
            if s.primary == POSTGRES and s.cursor < s.outbox:
                current = s.row or Record(s.epoch, 0, ("delete without a tombstone",), deleted=True, origin=POSTGRES)
                yield "the relay loads", s._replace(relay=Hand(s.primary, s.epoch, current, upto=s.outbox))
            return
        record = hand.record
        assert record is not None
        match hand.at:
            case "read":
                if s.doc is not None and not self._newer(record, s.doc) and record.version > 0:
                    yield "the relay is superseded", s._replace(relay=None, cursor=max(s.cursor, hand.upto))
                else:
                    base = s.doc.etag if s.doc is not None else 0
                    yield "the relay looks", s._replace(relay=hand._replace(at="looked", base=base))
            case "looked":
                request = Request("the relay", hand.base, record._replace(origin=POSTGRES))
                yield "the relay sends", s._replace(relay=hand._replace(at="sent"), net=(*s.net, request))
            case "landed":
                yield "the relay advances", s._replace(relay=None, cursor=max(s.cursor, hand.upto))
            case "refused":
                yield "the relay looks again", s._replace(relay=hand._replace(at="read"))
        if s.crashes and hand.at in {"looked", "sent"}:
            yield "the relay is killed", s._replace(relay=None, crashes=s.crashes - 1, net=_orphaned(s.net))

    # -- the switch

    def _switch(self, s: State) -> Iterator[tuple[str, State]]:
        sw = s.switch
        if sw is None:
            if s.steps:
                early = self._position(s) if not self.rules.position_after_drain else -1
                yield "a switch begins", s._replace(switch=Switch("begun", early), steps=s.steps[1:])
            return
        writing = _is_locked(s)
        match sw.at:
            case "begun" if s.primary == COSMOS or not self.rules.fence or not writing:
                yield "the switch drains", s._replace(switch=sw._replace(at="drained"), draining=True)
            case "drained" if not any(one.lease_known for one in s.writers):
                mark = self._position(s) if self.rules.position_after_drain else sw.mark
                yield "the switch marks the position", s._replace(switch=Switch("marked", mark))
            case "marked" if self._reached(s, sw.mark) or not self.rules.barrier:
                if (writing and self.rules.fence) or self._is_behind_again(s):
                    return
                other = POSTGRES if s.primary == COSMOS else COSMOS
                yield "the switch flips", s._replace(primary=other, epoch=s.epoch + 1, draining=False, switch=None)
            case "crashed":
                yield "the switch is resumed", s._replace(switch=Switch("drained", sw.mark))
                yield "the switch is cancelled", s._replace(switch=None, draining=False)
            case _:
                pass
        if s.crashes and s.draining and sw.at != "crashed":
            yield "the switch is killed", s._replace(switch=sw._replace(at="crashed"), crashes=s.crashes - 1)

    def _is_behind_again(self, s: State) -> bool:
        """Whether the mirror has healed a late write since the mark: the fence lets it, the relay has to send it."""
        return self.rules.look_again_in_flip and s.primary == POSTGRES and s.cursor < s.outbox

    def _position(self, s: State) -> int:
        return s.etags if s.primary == COSMOS else s.outbox

    def _reached(self, s: State, mark: int) -> bool:
        if s.primary == POSTGRES:
            return s.cursor >= mark
        # The watermark is the newest document of the range: it comes out once everything before it has.
        return s.feed_at >= mark or s.doc is None or s.doc.etag <= s.feed_at


def _changed(known: Record | None, want: str, epoch: int, origin: str) -> Record:
    version, writes = (known.version, known.writes) if known is not None else (0, ())
    return Record(epoch, version + 1, (*writes, want), deleted=want.startswith("delete"), origin=origin)


def _is_possible(want: str, known: Record | None) -> bool:
    """Whether somebody who looks would do it: what is deleted is only created anew."""
    return known is None or not known.deleted or want.startswith("create")


def _is_locked(s: State) -> bool:
    """Whether a transaction in Postgres holds the row's lock."""
    return any(one.at == "statement" for one in s.writers)


def _told(s: State, request: Request, landed: bool) -> State:
    said = "landed" if landed else "refused"
    if request.sender == "the relay" and s.relay is not None and s.relay.at == "sent":
        return s._replace(relay=s.relay._replace(at=said))
    writers = tuple(
        one._replace(at=said) if f"writer {number}" == request.sender and one.at == "sent" else one
        for number, one in enumerate(s.writers)
    )
    return s._replace(writers=writers)


def _orphaned(net: tuple[Request, ...]) -> tuple[Request, ...]:
    return tuple(one._replace(sender="a dead relay") if one.sender == "the relay" else one for one in net)
