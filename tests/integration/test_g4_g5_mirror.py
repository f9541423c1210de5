"""G4 and G5 towards Postgres: the mirror never takes a document back, and never resurrects a deleted one."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.content import content_of
from core.domain.account import Account
from core.domain.pending_signup import PendingSignup
from core.envelope import is_deleted
from core.errors import PrimaryMovedError
from core.phases import Phase
from core.postgres.authority import Change
from core.postgres.mirrored_rows import bury, put
from core.postgres.phases import open_phase
from core.stamp import Stamp
from tests.integration.mirror_steps import Steps, same

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.mappings import Mappings


@pytest.fixture
async def steps(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    return Steps(engine, cosmos, mappings, mappings.of(Account))


@pytest.fixture
async def signups(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Steps:
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    return Steps(engine, cosmos, mappings, mappings.of(PendingSignup))


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["ours", "delete", "add", "foreign", "old_whole"]), st.integers(0, 1)),
    min_size=2,
    max_size=7,
)


# Places in a history whose length is not known yet: taken modulo it.
BATCHES = st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=4), max_size=5)


@given(operations=OPERATIONS, places=BATCHES)
@settings(max_examples=20)
async def test_batches_repeated_reordered_and_duplicated_never_take_a_row_back(
    steps: Steps, operations: list[tuple[str, int]], places: list[list[int]]
) -> None:
    ids = [f"a-{uuid.uuid4().hex}" for _ in range(2)]
    start = len(steps.history)
    for number, (operation, which) in enumerate(operations):
        await _operate(steps, operation, ids[which], number)
    history = steps.history[start:]
    if not history:
        return
    batches = [[place % len(history) for place in batch] for batch in places]
    reached: dict[str, int] = {}
    for batch in [*batches, list(range(len(history))), *batches]:
        await steps.apply([history[index] for index in batch])
        for id_ in ids:
            state = await _state_in_history(steps, id_, history)
            assert state >= reached.get(id_, -1), "the row went back"
            reached[id_] = state
    for id_ in ids:
        current = await steps.current(id_)
        expected = None if current is None or is_deleted(current) else current
        assert same(await steps.content(id_), expected)


async def _operate(steps: Steps, operation: str, id_: str, number: int) -> None:
    current = await steps.current(id_)
    match operation:
        case "add" if current is None or is_deleted(current):
            await steps.add(Account(id=id_, display_name=f"added {number}"))
        case "ours":
            await steps.change(id_, display_name=f"ours {number}")
        case "delete":
            await steps.delete(id_)
        case "foreign":
            await steps.foreign({"id": id_, "DisplayName": f"foreign {number}", "Odd": number})
        case "old_whole":
            # The legacy application read a document long ago and writes it back whole, our property included.
            old = next((document for document in steps.history if document["id"] == id_), None)
            if old is not None:
                await steps.foreign({**old, "_etag": ""})


async def _state_in_history(steps: Steps, id_: str, history: list[Document]) -> int:
    """Return which state of the history Postgres holds, by what it last took; -1 for none."""
    held = await steps.held(id_)
    part = held.live_row or held.tombstone
    etags = [document["_etag"] for document in history]
    return etags.index(part.taken_etag) if part is not None and part.taken_etag is not None else -1


async def test_a_mirror_that_slept_through_a_flip_does_not_write(steps: Steps, engine: AsyncEngine) -> None:
    await steps.add(Account(id="a", display_name="from Cosmos"))
    asleep = await steps.phase()
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    with pytest.raises(PrimaryMovedError):
        await steps.apply(steps.history, asleep)
    assert (await steps.held("a")).stamp is None


async def test_a_mirror_asleep_for_a_flip_there_and_back_does_not_write(steps: Steps, engine: AsyncEngine) -> None:
    await steps.add(Account(id="a"))
    asleep = await steps.phase()
    await open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    with pytest.raises(PrimaryMovedError):
        await steps.apply(steps.history, asleep)


async def test_a_flip_waits_for_a_batch_that_is_being_applied(steps: Steps, engine: AsyncEngine) -> None:
    await steps.add(Account(id="a", display_name="in flight"))
    reading, go_on = asyncio.Event(), asyncio.Event()

    class SlowReader:
        async def read(self, identity: Identity) -> Document | None:
            reading.set()
            await go_on.wait()
            return await steps.current(identity.id)

        async def reach(self, container: str, epoch: int) -> None:
            """All reads are of now."""

    # Take the document, step there and back: the next change is of an earlier epoch and is read by key.
    await steps.apply(steps.history)
    await open_phase(engine, Phase.COSMOS_ONLY, who="test", why="test")
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    await steps.foreign({"id": "a", "DisplayName": "newer"})
    from core.postgres.guarded import apply_documents  # noqa: PLC0415 - the one test that brings its own reader

    async def batch() -> None:
        async with engine.begin() as connection:
            await apply_documents(
                connection,
                steps.mappings,
                steps.mapping.container,
                steps.history[-1:],
                await steps.phase(),
                SlowReader(),
            )

    applying = asyncio.create_task(batch())
    await reading.wait()
    flip = asyncio.create_task(open_phase(engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test"))
    await asyncio.sleep(0.3)
    assert not flip.done()
    go_on.set()
    await applying
    await flip
    content = await steps.content("a")
    assert content is not None
    assert content["DisplayName"] == "newer"


async def test_a_mirrored_row_leaves_no_message(steps: Steps) -> None:
    await steps.add(Account(id="a"))
    await steps.delete("a")
    await steps.apply(steps.history[:1])
    await steps.apply(steps.history[1:])
    assert await steps.count("crossfeed.outbox") == 0


async def test_a_foreign_writer_that_keeps_our_stamp_does_not_hide_our_next_write(steps: Steps) -> None:
    """Our writer counts on from the stamp it finds: two contents may come to have one stamp."""
    await steps.add(Account(id="a", display_name="one"))
    await steps.apply(steps.history)
    current = await steps.current("a")
    assert current is not None
    await steps.foreign({**current, "DisplayName": "foreign, our property kept"})
    await steps.apply(steps.history[-1:])
    await steps.change("a", display_name="ours again")
    await steps.apply(steps.history[-1:])
    content = await steps.content("a")
    assert content is not None
    assert content["DisplayName"] == "ours again"


async def test_a_delete_then_its_late_message_stays_deleted(steps: Steps) -> None:
    await steps.add(Account(id="a", display_name="one"))
    await steps.change("a", display_name="two")
    await steps.delete("a")
    one, two, tombstone = steps.history
    await steps.apply([tombstone])
    await steps.apply([one])
    await steps.apply([two, one])
    held = await steps.held("a")
    assert held.row is None
    assert held.tombstone is not None


async def test_a_delete_before_anything_else_still_leaves_a_tombstone(steps: Steps) -> None:
    await steps.add(Account(id="a"))
    await steps.delete("a")
    await steps.apply(steps.history[1:])
    assert (await steps.held("a")).tombstone is not None


async def test_a_document_added_again_after_its_delete_lives(steps: Steps) -> None:
    await steps.add(Account(id="a", display_name="one"))
    await steps.delete("a")
    await steps.add(Account(id="a", display_name="again"))
    one, tombstone, again = steps.history
    await steps.apply([one])
    await steps.apply([tombstone])
    await steps.apply([again])
    await steps.apply([tombstone, one])
    content = await steps.content("a")
    assert content is not None
    assert content["DisplayName"] == "again"


@pytest.mark.parametrize("delete_first", [True, False])
async def test_a_key_moved_between_partitions_survives_its_feeds_in_any_order(
    signups: Steps, delete_first: bool
) -> None:
    signup = PendingSignup(id="s", email="old@example.org", display_name="Ana")
    await signups.add(signup)
    await signups.apply(signups.history)
    await signups.add(PendingSignup(id="s", email="new@example.org", display_name="Ana"))
    await signups.delete("s", "old@example.org")
    created, deleted = signups.history[-2:]
    for document in [deleted, created] if delete_first else [created, deleted]:
        await signups.apply([document])
    assert await signups.content("s", "old@example.org") is None
    content = await signups.content("s", "new@example.org")
    assert content is not None
    assert content_of(created) == content


async def test_a_poisonous_document_is_dead_lettered_and_the_rest_applied(steps: Steps) -> None:
    await steps.foreign({"id": "good-1", "DisplayName": "good"})
    await steps.foreign({"id": "bad", "DisplayName": {"not": "a text"}})
    await steps.foreign({"id": "nul", "DisplayName": "a\0b"})
    await steps.foreign({"id": "good-2", "DisplayName": "good"})
    outcome = await steps.apply(steps.history)
    assert (outcome.applied, outcome.dead_lettered) == (2, 2)
    assert await steps.count("accounts") == 2
    assert await steps.count("crossfeed.dead_letter WHERE kind = 'refused'") == 2
    await steps.foreign({"id": "bad", "DisplayName": "mended"})
    await steps.apply(steps.history[-1:])
    assert await steps.count("crossfeed.dead_letter") == 1, "a newer state settles the letter"


async def test_the_statements_themselves_refuse_an_older_stamp(steps: Steps, engine: AsyncEngine) -> None:
    """The second line of defence: it holds even where a decision was made on what is no longer true."""
    await steps.add(Account(id="a", display_name="one"))
    await steps.change("a", display_name="two")
    await steps.apply(steps.history)
    change = Change.of(steps.mapping.identity(steps.history[0]), steps.history[0])
    held = await steps.held("a")
    assert held.stamp is not None
    for older in (held.stamp, Stamp(held.stamp.epoch, 1), Stamp(held.stamp.epoch - 1, 99)):
        async with engine.begin() as connection:
            await connection.exec_driver_sql("SET LOCAL crossfeed.mirroring = 'on'")
            await put(connection, steps.mapping, [(change, older)])
            await bury(connection, steps.mapping, [(change, older)])
        assert (await steps.held("a")).row == held.row
