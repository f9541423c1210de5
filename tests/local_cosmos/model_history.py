"""Judges what concurrent clients saw under faults by the one history that the feed of all versions tells."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tests.local_cosmos.model_world import Name

Verdict = Literal["done", "refused", "unknown"]


@dataclass
class Attempt:
    """One write as its client knows it; `began` and `ended` are counted over all events of the run."""

    n: int
    name: Name
    kind: str
    if_match: str | None
    began: int
    ended: int = 0
    verdict: Verdict = "unknown"
    etag: str | None = None
    status: int = 0
    batch: int | None = None


@dataclass(frozen=True)
class Seen:
    """A read after the write `after` (its `n`) under its session token: the version found, None for none."""

    name: Name
    after: int
    n: int | None


@dataclass(frozen=True)
class Entry:
    """One change of a document."""

    name: Name
    lsn: int
    kind: str
    n: int | None
    etag: str | None
    u: int | None
    expired: bool


@dataclass
class History:
    """All changes of a container in the order in which its feed shows them."""

    entries: list[Entry] = field(default_factory=list)
    of: dict[Name, list[Entry]] = field(default_factory=lambda: defaultdict(list))

    def add(self, item: dict[str, Any]) -> None:
        """Take the next change, which must follow from those before."""
        metadata = item["metadata"]
        kind = metadata["operationType"]
        shown = item["previous"] if kind == "delete" else item["current"]
        name = (f'["{shown["pk"]}"]', shown["id"])
        past = self.of[name]
        there = bool(past) and past[-1].kind != "delete"
        assert there is (kind != "create"), f"a change of {name} is missing before {kind}"
        if kind == "delete":
            assert shown["_etag"] == past[-1].etag, "a delete shows another version than the last one"
        assert not past or metadata["lsn"] >= past[-1].lsn
        entry = Entry(
            name,
            metadata["lsn"],
            kind,
            None if kind == "delete" else shown["n"],
            None if kind == "delete" else shown["_etag"],
            None if kind == "delete" else shown["u"],
            metadata.get("timeToLiveExpired", False),
        )
        past.append(entry)
        self.entries.append(entry)

    def latest(self) -> dict[Name, int]:
        """Return the documents that are there at the end."""
        return {name: past[-1].n for name, past in self.of.items() if past[-1].n is not None}

    def check(self, attempts: list[Attempt], reads: list[Seen]) -> None:
        """Assert that everything the clients were told is true."""
        places = {entry.n: (name, i) for name, past in self.of.items() for i, entry in enumerate(past) if entry.n}
        written = [entry.n for entry in self.entries if entry.n is not None]
        assert len(written) == len(set(written)), "a write took effect twice"
        etags = [entry.etag for entry in self.entries if entry.etag is not None]
        assert len(etags) == len(set(etags)), "an etag was given twice"
        assert set(written) <= {attempt.n for attempt in attempts}
        for attempt in attempts:
            self._check_one(attempt, places)
        self._check_deletes(attempts)
        self._check_order(
            [attempt for attempt in attempts if attempt.verdict == "done" and attempt.n in places], places
        )
        self._check_batches(attempts, places)
        self._check_unique()
        for read in reads:
            past = self.of[read.name]
            least = places[read.after][1]
            allowed = {entry.n for entry in past[least:]}
            assert read.n in allowed, f"a session read its past: {read}"

    def _check_one(self, attempt: Attempt, places: dict[int, tuple[Name, int]]) -> None:
        if attempt.kind == "delete":
            return
        if attempt.verdict == "refused":
            assert attempt.n not in places, f"a refused write took effect: {attempt}"
        if attempt.verdict == "done":
            assert attempt.n in places, f"an acknowledged write is missing: {attempt}"
        if attempt.n not in places:
            return
        name, index = places[attempt.n]
        entry = self.of[name][index]
        assert name == attempt.name
        if attempt.verdict == "done":
            assert attempt.etag in {entry.etag, None}
            assert attempt.batch is not None or (attempt.status == 201) is (entry.kind == "create")
        if attempt.kind == "create":
            assert entry.kind == "create"
        if attempt.if_match is not None and entry.kind != "create":
            assert self.of[name][index - 1].etag == attempt.if_match, f"If-Match was not held: {attempt}"

    def _check_deletes(self, attempts: list[Attempt]) -> None:
        for name, past in self.of.items():
            found = sum(entry.kind == "delete" and not entry.expired for entry in past)
            asked = [attempt for attempt in attempts if attempt.kind == "delete" and attempt.name == name]
            done = sum(attempt.verdict == "done" for attempt in asked)
            unknown = sum(attempt.verdict == "unknown" for attempt in asked)
            assert done <= found <= done + unknown, f"deletes of {name}: {done} done, {unknown} unknown, {found} found"

    def _check_order(self, done: list[Attempt], places: dict[int, tuple[Name, int]]) -> None:
        for one in done:
            for other in done:
                if one.name == other.name and one.ended < other.began:
                    assert places[one.n][1] < places[other.n][1], f"{other} overtook {one}"

    def _check_batches(self, attempts: list[Attempt], places: dict[int, tuple[Name, int]]) -> None:
        batches: dict[int, list[Attempt]] = defaultdict(list)
        for attempt in attempts:
            if attempt.batch is not None:
                batches[attempt.batch].append(attempt)
        for parts in batches.values():
            lsns = {self._lsn(places, part.n) for part in parts}
            assert len(lsns) == 1, f"a batch was torn: {parts}"

    def _lsn(self, places: dict[int, tuple[Name, int]], n: int) -> int | None:
        if n not in places:
            return None
        name, index = places[n]
        return self.of[name][index].lsn

    def _check_unique(self) -> None:
        """Replay every logical partition: after no transaction do two documents share a unique value."""
        values: dict[str, dict[Name, int]] = defaultdict(dict)
        for place, entry in enumerate(self.entries):
            live = values[entry.name[0]]
            live.pop(entry.name, None)
            if entry.u is not None:
                live[entry.name] = entry.u
            following = self.entries[place + 1 : place + 2]
            if not following or following[0].lsn != entry.lsn or following[0].name[0] != entry.name[0]:
                assert len(set(live.values())) == len(live), f"two documents of {entry.name[0]} share a unique value"
