"""Runs the model's scripts through the SDK: its writers, and its change feed with the continuations it makes."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from tests.local_cosmos.model_reader import HistoryReader, Reader, Scope
from tests.local_cosmos.model_runner import Runner
from tests.local_cosmos.model_script import Ask, Follow, Keep, Poll, Read, Resume, Step
from tests.local_cosmos.model_writer import partition_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from azure.cosmos.aio import ContainerProxy

    from tests.local_cosmos.model_world import Name


@dataclass
class Follower:
    """Reads the feed by the SDK; what it has seen is judged as that of a reader of the wire."""

    arguments: dict[str, Any]
    judge: Reader
    token: str | None = None

    async def poll(self, container: ContainerProxy, runner: SdkRunner, size: int) -> None:
        """Read everything there is."""
        mine: Callable[[Name], bool] = runner._in(self.judge.scope)
        if self.token is None:
            # Where the first round of all meets a split, the token that the SDK makes of it cannot be resumed.
            assert [one async for one in container.read_feed_ranges(force_refresh=True)]
        idle = 0
        while idle < 2:  # one is not enough: the round in which the SDK meets a split ends a range short
            start = {"continuation": self.token} if self.token else self.arguments
            scope = {name: value for name, value in self.arguments.items() if name not in {"start_time", "mode"}}
            arguments: dict[str, Any] = {**scope, **start, "max_item_count": size}
            if isinstance(self.judge, HistoryReader):
                arguments["mode"] = "AllVersionsAndDeletes"
            found = 0
            async for page in container.query_items_change_feed(**arguments).by_page():
                items = [item async for item in page]
                found += len(items)
                self.judge.accept(items, runner.world, mine)
            self.token = container.client_connection.last_response_headers["etag"]
            idle = 0 if found else idle + 1
        self.judge.drained(runner.world, mine)


@dataclass
class SdkRunner(Runner):
    """Runs a script with followers of the SDK beside the readers of the wire."""

    container: ContainerProxy = field(kw_only=True)
    followers: list[Follower] = field(default_factory=list)
    kept: list[Follower] = field(default_factory=list)

    async def run(self, script: list[Step]) -> None:
        await self._follow(Follow("whole", 0, "now", history=True))
        await self._follow(Follow("whole", 0, "beginning", history=False))
        self.kept.extend(deepcopy(self.followers))
        await super().run(script)

    async def step(self, step: Step) -> None:
        await super().step(step)
        match step:
            # Of a part of a partition (a prefix too) the SDK reads all of the children after a split.
            case Follow(what) if what not in {"slice", "prefix"}:
                await self._follow(step)
            case Poll(reader, size):
                await self.followers[reader % len(self.followers)].poll(self.container, self, size)
            case Keep(reader):
                self.kept.append(deepcopy(self.followers[reader % len(self.followers)]))
            case Resume(saved):
                self.followers.append(deepcopy(self.kept[saved % len(self.kept)]))
            case Ask():
                await self._query(step)
            case Read(key, id_):
                await self._point_read((self.key(key), str(id_)))

    async def finish(self) -> None:
        for follower in [*self.followers, *self.kept]:
            await follower.poll(self.container, self, 3)
        await super().finish()

    async def _follow(self, follow: Follow) -> None:
        arguments: dict[str, Any] = {}
        scope = Scope()
        if follow.what == "key":
            components = orjson.loads(self.key(follow.key))
            arguments["partition_key"] = components if len(components) > 1 else components[0]
            scope = Scope(key=orjson.dumps(components).decode())
        elif follow.what == "range":
            ranges = [one async for one in self.container.read_feed_ranges(force_refresh=True)]
            arguments["feed_range"] = ranges[follow.key % len(ranges)]
            chosen = arguments["feed_range"]["Range"]
            scope = Scope(chosen["min"], chosen["max"])
        if follow.history:
            taken = {name: len(changes) for name, changes in self.world.versions.items()}
            judge: Reader = HistoryReader(scope, [], taken=taken)
        else:
            now = follow.start == "now"
            judge = Reader(scope, [], exempt={name: s.n for name, s in self.world.documents.items()} if now else {})
            arguments["start_time"] = "Now" if now else "Beginning"
        follower = Follower(arguments, judge)
        if follow.history or follow.start == "now":
            await follower.poll(self.container, self, 4)
        self.followers.append(follower)

    async def _query(self, ask: Ask) -> None:
        scope = Scope(key=self.key(ask.key)) if ask.what in {"key", "prefix"} else Scope()
        arguments: dict[str, Any] = {"max_item_count": ask.size}
        if scope.key is not None:
            arguments["partition_key"] = partition_key(scope.key)
        else:
            # If a partition has split since the SDK looked, its pipeline reads those behind it twice.
            assert [one async for one in self.container.read_feed_ranges(force_refresh=True)]
        mine = self._in(scope)
        if ask.what == "count":
            counted = self.container.query_items("SELECT VALUE COUNT(1) FROM c", **arguments)
            found: list[Any] = [row async for row in counted]
            assert found == [len(self.world.documents)], (found, len(self.world.documents))
            return
        text = "SELECT * FROM c ORDER BY c.n" if ask.what == "ordered" else "SELECT * FROM c"
        documents = [row async for row in self.container.query_items(text, **arguments)]
        assert all(self._current(document) for document in documents)
        shown = [self.world.name_of(document) for document in documents]
        assert sorted(shown) == sorted(name for name in self.world.documents if mine(name))
        if ask.what == "ordered":
            assert [row["n"] for row in documents] == sorted(row["n"] for row in documents)

    async def _point_read(self, name: Name) -> None:
        found = await self.container.read_items([(name[1], partition_key(name[0]))])
        assert [self._current(document) for document in found] == ([True] if name in self.world.documents else [])
