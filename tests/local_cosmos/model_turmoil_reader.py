"""Follows the feed under faults as clients do, who stop and resume and meet splits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.local_cosmos.model_history import History
from tests.local_cosmos.model_reader import Position

if TYPE_CHECKING:
    from random import Random

    from tests.local_cosmos.model_turmoil import Turmoil
    from tests.local_cosmos.model_world import Name

AGAIN = frozenset({408, 429, 449, 503})


@dataclass
class Follower:
    """Reads the feed over every range, and follows their splits."""

    turmoil: Turmoil
    random: Random
    positions: list[Position]
    full: bool = False
    history: History = field(default_factory=History)
    seen: dict[Name, list[int]] = field(default_factory=dict)

    async def drain(self, limit: int) -> None:
        """Read until nothing comes, at most `limit` pages."""
        index = 0
        while index < len(self.positions) and limit:
            limit -= 1
            more = await self._page(index)
            if more is False:
                index += 1

    async def _page(self, index: int) -> bool | None:
        """Read a page; False if there was nothing, None if there was no good answer."""
        position = self.positions[index]
        mode = "Full-Fidelity Feed" if self.full else "Incremental Feed"
        headers = {"a-im": mode, "x-ms-max-item-count": str(self.random.randint(1, 5))}
        headers["x-ms-documentdb-partitionkeyrangeid"] = str(position.range_id)
        headers |= {"x-ms-start-epk": position.minimum, "x-ms-end-epk": position.maximum}
        if position.token is not None:
            headers["if-none-match"] = position.token
        answer = await self.turmoil.send("GET", ["docs"], headers)
        if answer is None or answer.status in AGAIN or (answer.status, answer.substatus) == (404, 1002):
            return None
        if answer.status == 410:
            self._split(index)
            return None
        assert answer.status in {200, 304}, answer.body
        before = int(position.token.strip('"')) if position.token not in {None, "*"} else 0
        after = int(answer.headers["etag"].strip('"'))
        assert after >= before, "a position went backwards"
        items = answer.json["Documents"] if answer.status == 200 else []
        lsns = [item["metadata"]["lsn"] if self.full else item["_lsn"] for item in items]
        assert lsns == sorted(lsns), "_lsn went backwards within a page"
        assert all(before < lsn <= after for lsn in lsns), "_lsn went backwards within a range"
        for item in items:
            if self.full:
                self.history.add(item)
            else:
                self.seen.setdefault(name_of(item), []).append(item["n"])
        position.token = answer.headers["etag"]
        return bool(items)

    def _split(self, index: int) -> None:
        position = self.positions[index]
        children = [
            Position(p.id, max(position.minimum, p.minimum), min(position.maximum, p.maximum), position.token)
            for p in self.turmoil.stored.overlapping(position.minimum, position.maximum)
        ]
        self.positions[index : index + 1] = children


class Reading:
    """One consumer of the latest versions, which stops and resumes as it likes."""

    def __init__(self, turmoil: Turmoil, random: Random) -> None:
        self.turmoil = turmoil
        self.random = random
        self.follower = self._new()
        self.saved: list[Follower] = []

    def _new(self) -> Follower:
        partitions = self.turmoil.stored.partitions
        return Follower(self.turmoil, self.random, [Position(p.id, p.minimum, p.maximum, None) for p in partitions])

    def _copy(self, other: Follower) -> Follower:
        positions = [Position(p.range_id, p.minimum, p.maximum, p.token) for p in other.positions]
        seen = {name: list(found) for name, found in other.seen.items()}
        return Follower(self.turmoil, self.random, positions, seen=seen)

    async def read_on(self) -> None:
        """Read until no writer is left."""
        while self.turmoil.writing:
            await self.follower.drain(self.random.randint(1, 6))
            await asyncio.sleep(self.random.random() * 0.004)
            match self.random.randrange(6):
                case 0:
                    self.saved.append(self._copy(self.follower))
                case 1 if self.saved:
                    self.saved.append(self._copy(self.follower))
                    self.follower = self._copy(self.random.choice(self.saved))
                case 2 if self.random.random() < 0.2:
                    self.saved.append(self.follower)
                    self.follower = self._new()

    async def finish(self, past: History) -> None:
        """Drain every continuation, and assert that each has seen the end, and nothing out of order."""
        for follower in [self.follower, *self.saved]:
            await follower.drain(1000)
            for name, found in follower.seen.items():
                order = {entry.n: index for index, entry in enumerate(past.of[name])}
                indexes = [order[n] for n in found]
                assert indexes == sorted(set(indexes)), f"the feed went backwards on {name}"
            for name, n in past.latest().items():
                assert follower.seen.get(name, [None])[-1] == n, f"the feed missed the latest state of {name}"


def name_of(document: dict[str, Any]) -> Name:
    """Return the name of a document that was received."""
    return f'["{document["pk"]}"]', str(document["id"])
