"""Any order, duplication and interleaving of writers ends with the newest state, and never goes back on the way."""

from __future__ import annotations

import asyncio
import random
import uuid
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.cosmos.feed import feed_ranges, pages
from core.cosmos.guarded import GuardedWriter, Publish, Superseded, Unchanged, Written
from core.envelope import Ours, author_of
from core.stamp import Stamp
from tests.cosmos.example import MAPPINGS, NOTES, Kept, note, note_identity
from tests.cosmos.guarded_steps import publish

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.cosmos.documents import CosmosDocuments

STAMPS = st.builds(Stamp, st.integers(1, 3), st.integers(1, 4))
ITEMS = st.lists(st.tuples(st.integers(0, 2), STAMPS, st.booleans()), min_size=1, max_size=24)


def state_of(run: str, key: int, stamp: Stamp, *, deleted: bool) -> Publish:
    id_ = f"{run}-{key}"
    return publish(note_identity(id_), stamp, None if deleted else note(id_, Title=str(stamp)))


async def watch(documents: CosmosDocuments, run: str, history: dict[int, list[Stamp]], done: asyncio.Event) -> None:
    """Read every document over and over, so that a step backwards would be seen."""
    while True:
        last_round = done.is_set()
        for key in range(3):
            document = await documents.read(note_identity(f"{run}-{key}"))
            if document is not None:
                author = author_of(document)
                assert isinstance(author, Ours)
                history.setdefault(key, []).append(author.stamp)
        if last_round:
            return


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(states=ITEMS, seed=st.integers(0, 2**32), foreign=st.booleans())
async def test_the_newest_state_wins_and_none_is_ever_taken_back(
    store: CosmosStore, documents: CosmosDocuments, states: list[tuple[int, Stamp, bool]], seed: int, foreign: bool
) -> None:
    run = uuid.uuid4().hex
    chance = random.Random(seed)
    # A stamp names one state: the first of several drawn with the same one counts.
    unique = {(key, stamp): deleted for key, stamp, deleted in reversed(states)}
    items = [state_of(run, key, stamp, deleted=deleted) for (key, stamp), deleted in unique.items()]
    newest = {key: max(stamp for k, stamp in unique if k == key) for key, _ in unique}
    if foreign:
        await store.container(NOTES).upsert_item(note(f"{run}-0", Title="foreign"))
    quarantine = Kept()
    writers = [GuardedWriter(store, MAPPINGS, quarantine, 4) for _ in range(2)]

    async def work(writer: GuardedWriter) -> None:
        mine = items * 2
        chance.shuffle(mine)
        while mine:
            batch = [mine.pop() for _ in range(min(len(mine), chance.randint(1, 6)))]
            for outcome in await writer.write(batch):
                assert isinstance(outcome, Written | Unchanged | Superseded)

    history: dict[int, list[Stamp]] = {}
    done = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        if not foreign:
            tasks.create_task(watch(documents, run, history, done))
        async with asyncio.TaskGroup() as work_tasks:
            for writer in writers:
                work_tasks.create_task(work(writer))
        done.set()
    for stamps in history.values():
        assert stamps == sorted(stamps)
    for key, stamp in newest.items():
        document = await documents.read(note_identity(f"{run}-{key}"))
        assert document is not None
        author = author_of(document)
        assert isinstance(author, Ours)
        assert (author.stamp, author.deleted) == (stamp, unique[key, stamp])
    kept = {kept["Title"] for _, kept in quarantine.documents}
    assert kept == ({"foreign"} if foreign and 0 in newest else set())


async def test_the_change_feed_never_shows_a_document_going_back(store: CosmosStore) -> None:
    """The feed is read while two writers replay the same history, shuffled differently."""
    history = [state_of("feed", 0, Stamp(1, version), deleted=version % 5 == 0) for version in range(1, 40)]
    container = store.container(NOTES)
    [feed_range] = await feed_ranges(container)
    seen: list[Stamp] = []
    done = asyncio.Event()

    async def work(seed: int) -> None:
        mine = history * 2
        # Nearly in order, as a log that is replayed in parts: so that many states are really written.
        mine.sort(key=lambda item: item.stamp.version + random.Random(seed + item.stamp.version).uniform(-4, 4))
        writer = GuardedWriter(store, MAPPINGS, Kept(), 4)
        for item in mine:
            await writer.write([item])

    async def follow() -> None:
        position = None
        while True:
            last_round = done.is_set()
            async for page in pages(container, feed_range, position, 10):
                position = page.continuation
                for document in page.documents:
                    author = author_of(document)
                    assert isinstance(author, Ours)
                    seen.append(author.stamp)
            if last_round:
                return

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        async with asyncio.TaskGroup() as work_tasks:
            work_tasks.create_task(work(1))
            work_tasks.create_task(work(2))
        done.set()
    assert len(seen) > 5
    assert seen == sorted(seen)
    assert seen[-1] == Stamp(1, 39)
