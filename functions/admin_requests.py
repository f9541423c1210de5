"""What the HTTP functions take and give, as JSON; which letters are meant is the same as on the command line."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from core.postgres.dead_letter_search import Selection, count, find
from core.postgres.dead_letters import Direction
from core.postgres.failures import translated
from functions.letter_facts import facts_of
from functions.letters import Act, act_on

if TYPE_CHECKING:
    from functions.bootstrap import Application
    from functions.runtime import Runtime

AT_MOST = 1000
"""Letters that one list shows unless it is told."""
_MAX_NUMBER = 2**63 - 1
_MAX_AGE = timedelta(days=1000 * 365)
"""Postgres' calendar has a beginning."""


class Letters(BaseModel):
    """Which letters; what is not given is any. `since` is a moment with its offset, or how long ago, as ISO 8601."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    numbers: list[Annotated[int, Field(le=_MAX_NUMBER)]] | None = None
    direction: Direction | None = None
    kind: str | None = None
    entity: str | None = None
    id: str | None = None
    reason: str | None = None
    since: AwareDatetime | Annotated[timedelta, Field(ge=timedelta(0), le=_MAX_AGE)] | None = None
    limit: Annotated[int | None, Field(ge=1, le=_MAX_NUMBER)] = None

    @property
    def selection(self) -> Selection:
        """Return what is meant as the search takes it."""
        return Selection(self.numbers, self.direction, self.kind, self.entity, self.id, self.reason, self.since)


class LettersToAct(Letters):
    """Which letters, and what to do; all of them must be asked for by name."""

    everything: bool = Field(default=False, alias="all")
    dry_run: bool = False

    @property
    def names_something(self) -> bool:
        """Whether letters are named, or really all of them."""
        return self.everything or self.selection != Selection()


async def list_letters(runtime: Runtime, wanted: Letters) -> dict[str, Any]:
    """Return how many letters are meant, and the oldest of them.

    Raises:
        ConfigurationError: a setting is wrong.
        StoreUnavailableError: Postgres did not answer.

    """
    async with runtime.application() as application:
        with translated("reading dead letters"):
            async with application.engine.connect() as connection:
                found = await count(connection, wanted.selection)
                letters = await find(connection, wanted.selection, found.at, limit=wanted.limit or AT_MOST)
    return {"count": found.count, "letters": [facts_of(letter) for letter in letters]}


async def act_on_letters(runtime: Runtime, act: Act, wanted: LettersToAct) -> dict[str, Any]:
    """Replay or discard letters; return what became of them.

    Raises:
        ConfigurationError: a setting is wrong.
        StoreUnavailableError: Postgres did not answer; what was done is done.

    """
    async with runtime.application() as application:

        async def itself() -> Application:
            return application

        with translated("reading dead letters"):
            async with application.engine.connect() as connection:
                found = await count(connection, wanted.selection)
        report = await act_on(
            act, application.engine, wanted.selection, found.at, wanted.limit, itself, dry_run=wanted.dry_run
        )
    if wanted.numbers is not None and wanted.limit is None:
        report.miss(wanted.numbers)
    return {"dry_run": wanted.dry_run, **report.facts}
