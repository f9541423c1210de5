"""Replays and discards dead letters of both directions, page by page, and says of each why it could not be."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, assert_never

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random

from changefeed import inbox_chains
from changefeed.mirror import Mirror
from core.cosmos.documents import CosmosDocuments
from core.envelope import Origin
from core.errors import ConcurrencyError, CrossfeedError
from core.postgres.authority import LATE_WRITE, ROGUE_WRITE
from core.postgres.dead_letter_search import discard, find
from core.postgres.dead_letters import EVENT, REFUSED, Direction
from core.postgres.failures import translated
from core.postgres.mirror_parking import MirrorPatience
from core.postgres.phases import read_phase
from outbox.letter_replay import replay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.phases import PhaseRow
    from core.postgres.dead_letter_search import Selection, StoredLetter
    from functions.bootstrap import Application

    Step = Callable[[AsyncConnection, Sequence[StoredLetter]], Awaitable[set[int]]]

PAGE = 1000
"""Letters per transaction."""

GONE = "it was renewed or taken away meanwhile; look again"


class Act(Enum):
    """What to do with letters; the value is the verb."""

    REPLAY = "replay"
    DISCARD = "discard"


@dataclass(slots=True)
class Report:
    """What became of letters, by their numbers: done, or not and why."""

    done: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)

    def add(self, letters: Sequence[StoredLetter], done: set[int]) -> None:
        """Count a page of which `done` were there as they had been seen."""
        self.done += sorted(done)
        self.refused |= {letter.number: GONE for letter in letters if letter.number not in done}

    def miss(self, numbers: Sequence[int]) -> None:
        """Refuse those that were asked for and not found."""
        known = {*self.done, *self.refused}
        self.refused |= {number: "there is no such letter" for number in numbers if number not in known}

    @property
    def facts(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "done": self.done,
            "refused": [{"number": number, "why": why} for number, why in self.refused.items()],
        }


def obstacle(letter: StoredLetter, phase: PhaseRow) -> str | None:
    """Say why a letter cannot be replayed in this phase; None if it can."""
    if letter.kind in {LATE_WRITE, ROGUE_WRITE}:
        return (
            "it was written to Cosmos DB while Postgres was the primary, and is kept as evidence: write what you need"
            " of it through your application, then discard it"
        )
    if inbox_chains.is_of_a_handler(letter) or (
        letter.direction is Direction.TO_COSMOS and letter.kind in {REFUSED, EVENT}
    ):
        return None
    if letter.kind != REFUSED:
        return f"a letter of the kind {letter.kind} is kept as evidence; discard it once you have seen it"
    if phase.primary is not Origin.COSMOS:
        return "Postgres is the primary now, so its own state counts; nothing is taken from Cosmos DB"
    if not letter.identity.partition_key:
        return "its document has no key by which it could be read again"
    return None


async def act_on(  # noqa: PLR0913, PLR0917 - what is asked for
    act: Act,
    engine: AsyncEngine,
    selection: Selection,
    until: datetime,
    limit: int | None,
    application: Callable[[], Awaitable[Application]],
    *,
    dry_run: bool,
) -> Report:
    """Replay or discard the letters that are meant, as they were at `until`.

    Replayed letters to Cosmos DB are parked again and due, so are events that a handler failed at; documents to
    Postgres are read again by key and mirrored.

    Args:
        act: what to do.
        engine: the database of the letters.
        selection: which are meant.
        until: when they were counted.
        limit: how many at most, the oldest first; None for all.
        application: connects to both stores; asked only if a document has to be read from Cosmos DB.
        dry_run: change nothing, only say what would be done.

    Raises:
        StoreUnavailableError: Postgres did not answer.
        ConfigurationError: Cosmos DB was needed and cannot be reached.

    """
    report = Report()
    async for letters in _pages(engine, selection, until, limit):
        match act:
            case Act.DISCARD:
                done = _numbers(letters) if dry_run else await _transact(engine, discard, letters)
                report.add(letters, done)
            case Act.REPLAY:
                await _replay(engine, letters, report, application, dry_run=dry_run)
            case _:
                assert_never(act)
    return report


async def _pages(
    engine: AsyncEngine, selection: Selection, until: datetime, limit: int | None
) -> AsyncIterator[list[StoredLetter]]:
    after, left = 0, limit
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        with translated("reading dead letters"):
            async with engine.connect() as connection:
                page = await find(connection, selection, until, after=after, limit=size)
        if not page:
            return
        yield page
        after = page[-1].number
        left = None if left is None else left - len(page)


async def _replay(
    engine: AsyncEngine,
    letters: Sequence[StoredLetter],
    report: Report,
    application: Callable[[], Awaitable[Application]],
    *,
    dry_run: bool,
) -> None:
    with translated("reading the phase"):
        async with engine.connect() as connection:
            phase = await read_phase(connection)
    obstacles = {letter.number: why for letter in letters if (why := obstacle(letter, phase)) is not None}
    report.refused |= obstacles
    free = [letter for letter in letters if letter.number not in obstacles]
    if dry_run:
        report.add(free, _numbers(free))
        return
    to_cosmos = [letter for letter in free if letter.direction is Direction.TO_COSMOS]
    report.add(to_cosmos, await _transact(engine, replay, to_cosmos))
    handled = [letter for letter in free if inbox_chains.is_of_a_handler(letter)]
    report.add(handled, await _transact(engine, inbox_chains.replay, handled))
    for letter in free:
        if letter.direction is Direction.TO_POSTGRES and letter not in handled:
            why = await _mirror_again(await application(), letter, phase)
            if why is None:
                report.done.append(letter.number)
            else:
                report.refused[letter.number] = why


async def _mirror_again(application: Application, letter: StoredLetter, phase: PhaseRow) -> str | None:
    """Read a document by its key and mirror what is found; return why that did not do."""
    documents = CosmosDocuments(application.store, application.mappings)

    async def settle(connection: AsyncConnection) -> None:
        await discard(connection, [letter])  # one that was refused again is renewed by now, and stays

    try:
        mapping = application.mappings.named(letter.identity.entity)
        document = await documents.read(letter.identity)
        if document is None:
            return "its document is not in Cosmos DB any more; discard it"
        mirror = Mirror(application.engine, documents, application.mappings, MirrorPatience.of(application.settings))
        outcome = await mirror.apply(mapping.container, [document], phase, settle)
    except CrossfeedError as error:
        return str(error)
    return "it was refused again" if outcome.dead_lettered else None


async def _transact(engine: AsyncEngine, step: Step, letters: Sequence[StoredLetter]) -> set[int]:
    """Take a step in a transaction; again if it and a relay or a mirror waited for each other."""
    if not letters:
        return set()

    async def once() -> set[int]:
        with translated("changing dead letters"):
            async with engine.begin() as connection:
                return await step(connection, letters)

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(ConcurrencyError),
        stop=stop_after_attempt(5),
        wait=wait_random(0.05, 0.2),
        reraise=True,
    )
    return await retrying(once)


def _numbers(letters: Sequence[StoredLetter]) -> set[int]:
    return {letter.number for letter in letters}
