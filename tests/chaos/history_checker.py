"""Judges a history by what its own clients wrote down: what was acknowledged is there, in its order, and nothing else.

A document's version grows by one with every write, in whichever store, so the versions of what was acknowledged are
the order in which it happened, and three things are enough to find what was lost: no version is given away twice, none
goes against the clock, and nobody overwrites what he has not seen.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.chaos.history_log import ABSENT, History, Kind, Outcome, Read, Seen, Write

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

BELIEF_NS = 0
"""How long a process may believe in a primary that has moved, for its reads: see core.crossfeed.PHASE_AGE_S."""

_END = 2**63


@dataclass(slots=True)
class Verdict:
    """What was found.

    Args:
        violations: what must not be, a sentence each.
        phantoms: how many reads saw a write whose writer was told that its outcome is unknown, and which came to
            nothing in the end: it had reached the store that was being left. No promise speaks of it.

    """

    violations: list[str] = field(default_factory=list)
    phantoms: int = 0


def judge(history: History, final: Mapping[str, Seen]) -> Verdict:
    """Check a history.

    Args:
        history: of all clients.
        final: what the primary holds of each document at the end, ABSENT or left out where it is deleted.

    """
    verdict = Verdict()
    writes: dict[str, list[Write]] = defaultdict(list)
    reads: dict[str, list[Read]] = defaultdict(list)
    for write in history.writes:
        writes[write.document].append(write)
    for read in history.reads:
        reads[read.document].append(read)
    for name in sorted(writes.keys() | reads.keys() | final.keys()):
        document = _Document(writes[name])
        document.judge(reads[name], final.get(name, ABSENT), verdict)
    return verdict


class _Floor:
    """The newest version and epoch that were known before a moment."""

    def __init__(self, known: Iterable[tuple[int, int, int]]) -> None:
        self._moments: list[int] = []
        self._newest: list[tuple[int, int]] = [(0, 0)]
        for moment, version, epoch in sorted(known):
            self._moments.append(moment)
            newest = self._newest[-1]
            self._newest.append((max(newest[0], version), max(newest[1], epoch)))

    def before(self, moment: int) -> tuple[int, int]:
        return self._newest[bisect_left(self._moments, moment)]


class _Document:
    """All writes of one document, and what may be seen of them."""

    def __init__(self, writes: list[Write]) -> None:
        self._by_token = {write.token: write for write in writes}
        self._acknowledged = sorted(
            (write for write in writes if write.outcome is Outcome.ACKNOWLEDGED), key=lambda write: write.version or 0
        )
        self._versions = [write.version or 0 for write in self._acknowledged]
        self._unknown = [write for write in writes if write.outcome is Outcome.UNKNOWN]
        self._built_upon = {
            write.base.token: write.base.stamp.version for write in self._acknowledged if write.base.stamp is not None
        }

    def judge(self, reads: list[Read], final: Seen, verdict: Verdict) -> None:
        verdict.violations.extend(self._disorder())
        for write in self._acknowledged:
            verdict.violations.extend(self._overwritten(write))
        verdict.violations.extend(self._seen_wrongly(reads, verdict))
        at_the_end = (self._versions[-1] if self._versions else 0, 0)
        for wrong in self._wrong(final, at_the_end, _END):
            verdict.violations.append(f"at the end: {wrong}")

    def _disorder(self) -> Iterator[str]:
        """Look for versions that were given away twice, or against the clock, or in an older epoch."""
        for one, other in pairwise(self._acknowledged):
            if one.version == other.version:
                yield f"two acknowledged writes became the same version: {_said(one)}; {_said(other)}"
            if one.stamp is not None and other.stamp is not None and one.stamp.epoch > other.stamp.epoch:
                yield f"a later write is of an earlier epoch: {_said(one)}; {_said(other)}"
        earliest: Write | None = None
        for write in reversed(self._acknowledged):
            if earliest is not None and (earliest.ended or 0) < write.begun and earliest.version != write.version:
                yield f"written later, with a lower version: {_said(write)} after {_said(earliest)}"
            if earliest is None or (write.ended or 0) < (earliest.ended or 0):
                earliest = write

    def _overwritten(self, write: Write) -> Iterator[str]:
        """Look for acknowledged writes that this one has not seen."""
        before = self._last(below=write.version or 0)
        if write.kind is Kind.ADD:
            if before is not None and not self._may_be_absent(before.version or 0, _END):
                yield f"added over what was there: {_said(write)} over {_said(before)}"
            return
        base = write.base.stamp
        if base is None or before is None:
            return
        if (before.version or 0) > base.version:
            yield f"an acknowledged write was overwritten unseen: {_said(before)} by {_said(write)}"
        for wrong in self._unexplained(write.base, _END):
            yield f"decided on what was never there: {_said(write)}: {wrong}"

    def _seen_wrongly(self, reads: list[Read], verdict: Verdict) -> Iterator[str]:
        everyone = _Floor((write.ended or _END, *_reached(write)) for write in self._acknowledged)
        sessions = defaultdict[str, list[tuple[int, int, int]]](list)
        for write in self._acknowledged:
            sessions[write.session].append((write.ended or _END, *_reached(write)))
        for read in reads:
            if read.seen.stamp is not None and self._is_sure(read.seen):
                sessions[read.session].append((read.ended, read.seen.stamp.version, read.seen.stamp.epoch))
        own = {session: _Floor(known) for session, known in sessions.items()}
        for read in reads:
            known = [everyone.before(read.begun - BELIEF_NS)]
            if read.session in own:
                known.append(own[read.session].before(read.begun))
            floor = max(version for version, _ in known), max(epoch for _, epoch in known)
            if wrong := list(self._wrong(read.seen, floor, read.ended)):
                if self._is_phantom(read.seen):
                    verdict.phantoms += 1
                else:
                    yield f"{_spelled(read.seen)} was read of {read.document} by {read.session} at {read.ended}: " + (
                        "; ".join(wrong)
                    )

    def _wrong(self, seen: Seen, floor: tuple[int, int], ended: int) -> Iterator[str]:
        """Say why this cannot have been seen until `ended` by somebody who knew of the versions up to `floor`."""
        version, epoch = floor
        if seen.stamp is None:
            if version and not self._may_be_absent(version, ended):
                yield f"nothing, after version {version}{self._of(version)} was there"
            return
        if seen.stamp.version < version:
            yield f"{_spelled(seen)} after version {version}{self._of(version)}"
        elif seen.stamp.epoch < epoch:
            yield f"{_spelled(seen)} after epoch {epoch}"
        yield from self._unexplained(seen, ended)

    def _unexplained(self, seen: Seen, ended: int) -> Iterator[str]:
        """Say why no write, nor a state that was stamped anew, can have left this state."""
        assert seen.stamp is not None
        write = self._by_token.get(seen.token or "")
        if write is None:
            yield f"nobody wrote {_spelled(seen)}"
        elif write.outcome is Outcome.REFUSED:
            yield f"it was refused: {_said(write)}"
        elif write.begun > ended:
            yield f"it was written later: {_said(write)}"
        elif write.kind is Kind.DELETE:
            yield f"it is a delete: {_said(write)}"
        elif write.version is not None and write.version > seen.stamp.version:
            yield f"it was written as a later version: {_said(write)}"
        else:
            newest = self._last(below=seen.stamp.version + 1)
            if newest is not None and newest is not write and not self._may_follow(write, newest, seen.stamp.version):
                yield f"{_spelled(seen)} instead of {_said(newest)}"

    def _may_follow(self, write: Write, newest: Write, seen: int) -> bool:
        """Whether a write may be what is seen as version `seen`, though the acknowledged `newest` is no later."""
        after = newest.version or 0
        if write.outcome is Outcome.ACKNOWLEDGED or after == seen:
            return False
        version = self._built_upon.get(write.token, write.version)
        return version > after if version is not None else self._may_be_absent(after, _END)

    def _is_phantom(self, seen: Seen) -> bool:
        write = self._by_token.get(seen.token or "")
        return write is not None and write.outcome is Outcome.UNKNOWN and not self._is_sure(seen)

    def _is_sure(self, seen: Seen) -> bool:
        """Whether what was seen had happened for good."""
        write = self._by_token.get(seen.token or "")
        return write is not None and (write.outcome is Outcome.ACKNOWLEDGED or write.token in self._built_upon)

    def _may_be_absent(self, version: int, ended: int) -> bool:
        """Whether the document may have been deleted, as this version or later, and until `ended`."""
        acknowledged = self._acknowledged[bisect_left(self._versions, version) :]
        deletes = (write for write in (*acknowledged, *self._unknown) if write.kind is Kind.DELETE)
        return any((write.version or 0) >= version and write.begun < ended for write in deletes)

    def _last(self, *, below: int) -> Write | None:
        index = bisect_left(self._versions, below)
        return self._acknowledged[index - 1] if index else None

    def _of(self, version: int) -> str:
        write = self._last(below=version + 1)
        return f" ({_said(write)})" if write is not None and write.version == version else ""


def _reached(write: Write) -> tuple[int, int]:
    stamp = write.stamp or write.base.stamp
    return write.version or 0, stamp.epoch if stamp is not None else 0


def _spelled(seen: Seen) -> str:
    return "nothing" if seen.stamp is None else f"{seen.token} as {seen.stamp}"


def _said(write: Write) -> str:
    stamp = write.stamp or (f"version {write.version}" if write.version else "a version")
    base = f" upon {write.base.stamp}" if write.base.stamp is not None else ""
    span = f"{write.begun}-{write.ended or 'never'}"
    return f"{write.kind} of {write.document} by {write.token} as {stamp}{base}, {write.outcome}, {span}"
