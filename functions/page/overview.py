"""Reads how an installation stands, once for the status page, the terminal and scripts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from changefeed.progress import TriggerStatus, read_triggers
from core.identity import Identity
from core.migration.parity_record import RecordedParity, read_parity
from core.phases import Phase
from core.postgres.armed import trigger_problems
from core.postgres.canaries import CanaryLag, read_canaries
from core.postgres.dead_letter_search import Selection, StoredLetter, count, find
from core.postgres.dead_letters import Direction
from core.postgres.phases import read_phase
from core.postgres.samples import BIN_S, Series, read_series
from core.postgres.switch_record import pending_switch
from functions.letter_facts import facts_of
from functions.letters import obstacle
from functions.page.holders import Holders, read_holders
from functions.page.spelling import clipped
from functions.phase_facts import read_history, read_problems
from functions.phase_way import Way
from outbox.status import OutboxStatus, read_status

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.phases import PhaseRow

LETTERS: Final = 50
"""How many dead letters are shown; there may be more."""
_LOOKED_BACK: Final = 50
"""Among how many of the last steps the last switch is looked for."""


@dataclass(frozen=True, slots=True)
class NextStep:
    """A step that may be tried from here; `crossfeed phase plan` says what would refuse it."""

    way: Way
    to: Phase

    @property
    def plan(self) -> str:
        """The command that changes nothing."""
        return f"crossfeed phase plan {self.way.value}"

    @property
    def command(self) -> str:
        """The command that makes the step."""
        return f"crossfeed phase {self.way.value}"


@dataclass(frozen=True, slots=True)
class Standing:
    """The phase, since when and by whom it was opened, and the steps that may come next: none while a switch runs."""

    row: PhaseRow
    since: datetime
    who: str
    why: str
    next_steps: tuple[NextStep, ...]


@dataclass(frozen=True, slots=True)
class ShownLetter:
    """A dead letter without its document, and why it cannot be replayed now; None if it can."""

    letter: StoredLetter
    obstacle: str | None


@dataclass(frozen=True, slots=True)
class Overview:
    """How everything stands at one moment.

    Args:
        at: that moment, by the clock of Postgres.
        standing: the phase.
        switch_problems: what a switch that is under way, or crashed, keeps from working.
        trigger_problems: triggers that are not as the phase wants them.
        series: lag and throughput of each direction.
        outbox: what waits on its way to Cosmos DB, and in which slots.
        holders: the processes that are alive, and what nobody holds.
        triggers: of the Functions app, if there is one.
        parked: what waits for another attempt on its way to Postgres.
        letters: the oldest dead letters, `letters_in_all` of them in all.
        last_switch: the last switch of the primary with its report, None if there was none.
        parity: the last comparison of each entity type.
        canaries: how late each slot or feed range is that carries something in this phase.

    """

    at: datetime
    standing: Standing
    switch_problems: tuple[str, ...]
    trigger_problems: tuple[str, ...]
    series: dict[Direction, Series]
    outbox: OutboxStatus
    holders: Holders
    triggers: TriggerStatus
    parked: int
    letters: tuple[ShownLetter, ...]
    letters_in_all: int
    last_switch: dict[str, Any] | None
    parity: tuple[RecordedParity, ...]
    canaries: tuple[CanaryLag, ...]

    @property
    def active(self) -> Direction | None:
        """The direction that has something to carry in this phase; of the last phase it is domain events alone."""
        match self.standing.row.phase:
            case Phase.COSMOS_ONLY:
                return None
            case Phase.DUAL_WRITE_COSMOS_READ:
                return Direction.TO_POSTGRES
            case _:
                return Direction.TO_COSMOS

    def lag_s(self, direction: Direction) -> float | None:
        """Return the age of the oldest change not carried, in seconds; None if nobody says.

        What lies in slots that no relay holds is in nobody's sample.
        """
        known = [self.series[direction].lag_now_s]
        if direction is Direction.TO_COSMOS and direction is self.active:
            known.append(self.outbox.backlog.oldest_s)
        return max((lag_s for lag_s in known if lag_s is not None), default=None)

    def facts(self) -> dict[str, Any]:
        """Return it as values that JSON knows, or orjson: moments and enumerations as they are."""
        standing = self.standing
        return {
            "at": self.at,
            "phase": standing.row.phase.label,
            "epoch": standing.row.epoch,
            "state": standing.row.state.value,
            "primary": standing.row.primary.value,
            "since": standing.since,
            "who": standing.who,
            "why": standing.why,
            "next": [{"to": one.to.label, "plan": one.plan, "command": one.command} for one in standing.next_steps],
            "directions": {
                direction.value: {
                    "active": direction is self.active,
                    "lag_now_s": self.lag_s(direction),
                    **_bins(series),
                }
                for direction, series in self.series.items()
            },
            "outbox": {
                "states": asdict(self.outbox.states),
                "events": asdict(self.outbox.events),
                "slots": len(self.outbox.slots),
                "unowned": self.outbox.unowned,
            },
            "parked": {"to_cosmos": self.outbox.parked, "to_postgres": self.parked},
            "holders": asdict(self.holders),
            "triggers": asdict(self.triggers),
            "dead_letters": {
                "count": self.letters_in_all,
                "letters": [{**facts_of(one.letter), "obstacle": one.obstacle} for one in self.letters],
            },
            "last_switch": self.last_switch,
            "parity": [asdict(one) for one in self.parity],
            "canaries": [asdict(one) for one in self.canaries],
        }


def _bins(series: Series) -> dict[str, Any]:
    return {"per_s_now": series.per_s_now, "bin_s": BIN_S, "lag_s": series.lag_s, "per_s": series.per_s}


_OPENED = "SELECT at, by_whom, why FROM crossfeed.phase_history h JOIN crossfeed.phase p ON p.epoch = h.epoch"
_PARKED = """
    SELECT (SELECT count(*) FROM crossfeed.mirror_parked) + (SELECT count(*) FROM crossfeed.inbox_parked)
"""


async def read_overview(connection: AsyncConnection) -> Overview:
    """Look at everything. It costs some tens of milliseconds, whatever the tables hold.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    row = await read_phase(connection)
    found = await count(connection, Selection())
    letters = await find(connection, Selection(), found.at, limit=LETTERS)
    return Overview(
        at=found.at,
        standing=await _standing(connection, row),
        switch_problems=tuple(await read_problems(connection)),
        trigger_problems=tuple(await trigger_problems(connection)),
        series=await read_series(connection),
        outbox=await read_status(connection),
        holders=await read_holders(connection),
        triggers=await read_triggers(connection),
        parked=(await connection.exec_driver_sql(_PARKED)).scalar_one(),
        letters=tuple(ShownLetter(_clipped(letter), obstacle(letter, row)) for letter in letters),
        letters_in_all=found.count,
        last_switch=await _last_switch(connection),
        parity=await read_parity(connection),
        canaries=tuple(await read_canaries(connection)),
    )


async def _standing(connection: AsyncConnection, row: PhaseRow) -> Standing:
    since, who, why = tuple((await connection.exec_driver_sql(_OPENED)).one())
    ways = [] if await pending_switch(connection) is not None else list(Way)
    last = {Way.ADVANCE: Phase.POSTGRES_ONLY, Way.BACK: Phase.COSMOS_ONLY}
    steps = tuple(NextStep(way, way.of(row.phase)) for way in ways if row.phase is not last[way])
    return Standing(row, since, who, why, steps)


def _clipped(letter: StoredLetter) -> StoredLetter:
    """Return a letter that can be looked at: raw SQL may write an id of any length."""
    identity = letter.identity
    short = Identity(clipped(identity.entity), clipped(identity.partition_key), clipped(identity.id))
    return replace(letter, identity=short, reference=clipped(letter.reference), reason=clipped(letter.reason))


async def _last_switch(connection: AsyncConnection) -> dict[str, Any] | None:
    steps = await read_history(connection, _LOOKED_BACK)
    return next((step["switch"] for step in steps if step["switch"] is not None), None)
