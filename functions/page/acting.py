"""Replays and discards the dead letters that were chosen on the page, as they were when it was made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from core.postgres.dead_letter_search import Selection, find
from core.postgres.dead_letters import Direction
from core.postgres.failures import translated
from functions.letters import GONE, Act, Report, act_on

if TYPE_CHECKING:
    from functions.bootstrap import Application

MOST_BYTES: Final = 64 * 1024
"""How long a form may be."""
_MOST_FIELDS: Final = 1000
_MAX_NUMBER: Final = 2**63 - 1

ELSEWHERE: Final = {
    Direction.TO_COSMOS: "this process may not send: replay it on a relay's page, or with crossfeed dead-letters"
    " replay",
    Direction.TO_POSTGRES: "this process may not mirror: replay it on a mirror's page, or with crossfeed dead-letters"
    " replay",
}
"""Why a letter of the other direction is not replayed here: roles have the rights of their own direction."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a form asks for: letters by their numbers, as they were at `until`."""

    act: Act
    numbers: tuple[int, ...]
    until: datetime


@dataclass(frozen=True, slots=True)
class Form:
    """What was sent: the token, if any, and what is wanted; None if that makes no sense."""

    token: str | None
    wanted: Wanted | None


def parse(body: bytes) -> Form:
    """Read a form as browsers send it; what makes no sense is nothing."""
    try:
        fields = parse_qs(body.decode(), max_num_fields=_MOST_FIELDS)
    except ValueError:
        return Form(None, None)
    return Form(fields.get("token", [None])[0], _wanted(fields))


def _wanted(fields: dict[str, list[str]]) -> Wanted | None:
    try:
        numbers = tuple(dict.fromkeys(map(int, fields.get("number", []))))
        wanted = Wanted(Act(fields["act"][0]), numbers, datetime.fromisoformat(fields["until"][0]))
    except (KeyError, ValueError):
        return None
    is_sound = wanted.until.tzinfo is not None and all(0 < number <= _MAX_NUMBER for number in numbers)
    return wanted if is_sound else None


async def carry_out(application: Application, wanted: Wanted, replays: frozenset[Direction]) -> Report:
    """Do it, and say of each letter that stays why.

    Args:
        application: both stores.
        wanted: what.
        replays: the directions whose letters this process may replay.

    Raises:
        CrossfeedError: a store did not answer; what was done is done.

    """

    async def itself() -> Application:
        return application

    report = Report()
    meant = Selection(wanted.numbers)
    if wanted.act is Act.REPLAY:
        with translated("reading dead letters"):
            async with application.engine.connect() as connection:
                letters = await find(connection, meant, wanted.until, limit=len(wanted.numbers) or 1)
        report.refused |= {one.number: ELSEWHERE[one.direction] for one in letters if one.direction not in replays}
    numbers = tuple(number for number in wanted.numbers if number not in report.refused)
    if numbers:
        done = await act_on(
            wanted.act, application.engine, Selection(numbers), wanted.until, None, itself, dry_run=False
        )
        report.done += done.done
        report.refused |= done.refused
    report.refused |= {number: GONE for number in numbers if number not in {*report.done, *report.refused}}
    return report
