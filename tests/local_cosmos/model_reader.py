"""Follows the change feed as a careful consumer does, and asserts of each page what the feed promises."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.local_cosmos.model_wire import Wire
    from tests.local_cosmos.model_world import Name, State, World

FIRST, LAST = "", "FF"


@dataclass
class Position:
    """How far a reader is within `[minimum, maximum)` of the effective partition keys; `range_id` served it last."""

    range_id: str | None
    minimum: str
    maximum: str
    token: str | None


@dataclass
class Scope:
    """What a reader reads: a range of effective partition keys, or a logical partition or prefix by its `key`."""

    minimum: str = FIRST
    maximum: str = LAST
    key: str | None = None
    whole_key: bool = False

    def holds(self, key: str, epk: str) -> bool:
        if self.key is None:
            return self.minimum <= epk < self.maximum
        wanted: list[Any] = orjson.loads(self.key)
        return [orjson.dumps(part) for part in orjson.loads(key)][: len(wanted)] == [orjson.dumps(w) for w in wanted]


async def ranges(wire: Wire, path: list[str]) -> list[dict[str, Any]]:
    """Return the physical partitions as the server tells them; together they cover everything, without a gap."""
    answer = await wire.send("GET", [*path, "pkranges"], {"a-im": "Incremental Feed"})
    assert answer.status == 200
    found = sorted(answer.json["PartitionKeyRanges"], key=lambda one: str(one["minInclusive"]))
    bounds = [(one["minInclusive"], one["maxExclusive"]) for one in found]
    assert [low for low, _ in bounds] + [LAST] == [FIRST] + [high for _, high in bounds]
    assert len({one["id"] for one in found}) == len(found)
    assert not {one["id"] for one in found} & {parent for one in found for parent in one["parents"]}
    return found


@dataclass
class Reader:
    """Reads one scope; `seen` is the latest that it knows of each document, as its checkpoint would be.

    `since` (seconds since the epoch) starts it at a time; `exempt` are the versions from before it started.
    """

    scope: Scope
    positions: list[Position]
    since: int | None = None
    seen: dict[Name, int] = field(default_factory=dict)
    exempt: dict[Name, int] = field(default_factory=dict)
    pages: int = 0

    mode = "Incremental Feed"

    def copy(self) -> Reader:
        return deepcopy(self)

    async def poll(  # noqa: PLR0913, PLR0917 - the reader holds nothing but its checkpoint
        self, wire: Wire, path: list[str], world: World, epk: Callable[[str], str], size: int, limit: int
    ) -> None:
        """Read at most `limit` pages of `size`."""
        index, left = 0, limit
        while index < len(self.positions) and left:
            left -= 1
            if not await self._page(index, wire, path, world, epk, size):
                index += 1

    async def _page(  # noqa: PLR0913, PLR0917 - as above
        self, index: int, wire: Wire, path: list[str], world: World, epk: Callable[[str], str], size: int
    ) -> bool:
        """Read a page of one position; say whether there may be more to read there."""
        position = self.positions[index]
        answer = await wire.send("GET", [*path, "docs"], self._headers(position, size))
        if answer.status == 410:
            assert answer.substatus == 1002
            await self._follow_split(index, wire, path)
            return True
        assert answer.status in {200, 304}, answer.body
        before = int(position.token.strip('"')) if position.token not in {None, "*"} else 0
        after = int(answer.headers["etag"].strip('"'))
        assert after >= before, "a position went backwards"
        items: list[dict[str, Any]] = answer.json["Documents"] if answer.status == 200 else []
        assert bool(items) == (answer.status == 200)
        lsns = [self.lsn(item) for item in items]
        assert lsns == sorted(lsns), "_lsn went backwards within a page"
        assert all(before < lsn <= after for lsn in lsns), "_lsn went backwards within a range"
        # What a smaller page cannot explain: a page ends early only at the size that was asked for.
        transactions = Counter(lsns)
        assert not lsns or sum(count for lsn, count in transactions.items() if lsn != lsns[-1]) < size

        def mine(name: Name) -> bool:
            place = epk(name[0])
            return position.minimum <= place < position.maximum and self.scope.holds(name[0], place)

        self.accept(items, world, mine)
        self.complete(after, world, mine)
        position.token = answer.headers["etag"]
        self.pages += 1
        return bool(items)

    def _headers(self, position: Position, size: int) -> dict[str, str]:
        headers = {"a-im": self.mode, "x-ms-max-item-count": str(size)}
        if self.mode.startswith("Full"):
            headers["x-ms-cosmos-changefeed-wire-format-version"] = "2021-09-15"
        if position.token is not None:
            headers["if-none-match"] = position.token
        if self.since is not None:
            headers["if-modified-since"] = formatdate(self.since, usegmt=True)
        if self.scope.key is not None:
            headers["x-ms-documentdb-partitionkey"] = self.scope.key
        if position.range_id is not None:
            headers["x-ms-documentdb-partitionkeyrangeid"] = position.range_id
            if self.scope.key is None:
                headers["x-ms-start-epk"] = position.minimum
                headers["x-ms-end-epk"] = position.maximum
        return headers

    async def _follow_split(self, index: int, wire: Wire, path: list[str]) -> None:
        position = self.positions[index]
        children = []
        for child in await ranges(wire, path):
            low = max(position.minimum, child["minInclusive"])
            high = min(position.maximum, child["maxExclusive"])
            if low < high:
                assert position.range_id in child["parents"]
                children.append(Position(child["id"], low, high, position.token))
        assert children
        self.positions[index : index + 1] = children

    def lsn(self, item: dict[str, Any]) -> int:
        return int(item["_lsn"])

    def accept(self, items: list[dict[str, Any]], world: World, mine: Callable[[Name], bool]) -> None:
        """Take the documents of a page, which are the world's as they are now."""
        groups: dict[int, set[Name]] = {}
        for item in items:
            name = world.name_of(item)
            state = world.documents.get(name)
            assert state is not None, f"{name} was deleted, and the feed shows it"
            assert mine(name), f"{name} is none of this reader's"
            assert (item["n"], item["_etag"], item["_ts"]) == (state.n, state.etag, state.ts)
            assert item["_lsn"] == state.lsn
            assert self.since is None or state.ts >= self.since
            assert name not in groups.get(state.group, set())
            groups.setdefault(state.group, set()).add(name)
            self.seen[name] = state.n
        for group, shown in groups.items():
            whole = {name for name, s in world.documents.items() if s.group == group and mine(name) and self._due(s)}
            assert shown >= whole, f"the transaction {group} was split over pages"

    def _due(self, state: State) -> bool:
        return self.since is None or state.ts > self.since

    def complete(self, after: int, world: World, mine: Callable[[Name], bool]) -> None:
        """Assert that everything up to the LSN `after` was seen."""
        for name, state in world.documents.items():
            if state.lsn <= after and mine(name) and self._due(state) and self.exempt.get(name) != state.n:
                assert self.seen.get(name) == state.n, f"{name} was skipped"

    def drained(self, world: World, mine: Callable[[Name], bool]) -> None:
        """Assert that nothing is missing."""
        self.complete(1 << 62, world, mine)


@dataclass
class HistoryReader(Reader):
    """Reads all versions and deletes; `taken` counts the changes of each document that were read."""

    taken: dict[Name, int] = field(default_factory=dict)

    mode = "Full-Fidelity Feed"

    def lsn(self, item: dict[str, Any]) -> int:
        return int(item["metadata"]["lsn"])

    def accept(self, items: list[dict[str, Any]], world: World, mine: Callable[[Name], bool]) -> None:
        """Take the changes of a page, each the next one of its document."""
        groups: Counter[int] = Counter()
        for item in items:
            metadata = item["metadata"]
            shown = item["previous"] if metadata["operationType"] == "delete" else item["current"]
            name = world.name_of(shown)
            assert mine(name), f"{name} is none of this reader's"
            index = self.taken.get(name, 0)
            changes = world.versions.get(name, [])
            assert index < len(changes), f"a change of {name} was shown twice"
            change = changes[index]
            assert metadata["operationType"] == change.kind, f"a change of {name} was skipped or repeated"
            assert shown["n"] == (change.before if change.kind == "delete" else change.n)
            assert metadata.get("timeToLiveExpired", False) is change.expired
            self.taken[name] = index + 1
            groups[change.group] += 1
        for group, count in groups.items():
            whole = [v for name, found in world.versions.items() if mine(name) for v in found if v.group == group]
            assert count == len(whole), f"the transaction {group} was split over pages"

    def complete(self, after: int, world: World, mine: Callable[[Name], bool]) -> None:
        """Assert that every change up to the LSN `after` was read."""
        for name, state in world.documents.items():
            if state.lsn <= after and mine(name):
                assert self.taken.get(name, 0) == len(world.versions[name]), f"a change of {name} was skipped"

    def drained(self, world: World, mine: Callable[[Name], bool]) -> None:
        """Assert that every change was read."""
        for name, found in world.versions.items():
            if mine(name):
                assert self.taken.get(name, 0) == len(found), f"a change of {name} was skipped"
