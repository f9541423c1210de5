"""Answers for the status page, whoever serves it: a process's own port, or Azure Functions."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import orjson
import structlog

from core.errors import CrossfeedError
from core.postgres.failures import translated
from functions.page.acting import MOST_BYTES, carry_out, parse
from functions.page.document import policy, render
from functions.page.letters import outcome, saying
from functions.page.look import Look
from functions.page.markup import NOTHING
from functions.page.overview import read_overview
from functions.page.problems import Severity, problems_of, unreachable
from functions.probing import Fresh, answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from markupsafe import Markup

    from core.postgres.dead_letters import Direction
    from functions.bootstrap import Application
    from functions.page.access import Door
    from functions.page.acting import Wanted
    from functions.page.overview import Overview

log = structlog.get_logger()

ACT_S: Final = 60.0
"""How long an action may take, in seconds; what was done by then is done."""
_TEXT: Final = "text/plain; charset=utf-8"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_ASK: Final = (
    "This page is for who has the token: CROSSFEED_ADMIN_TOKEN, as the password of any user, or as a bearer token.\n"
    "Without the token it is served on this machine's own address alone.\n"
)


async def _no_problems() -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes
    headers: Mapping[str, str]


@dataclass(slots=True)
class StatusPage:
    """The page of one process.

    Args:
        who: the process, for people.
        door: who may what.
        application: opens the parts of the process, or gives those that are open.
        replays: the directions whose letters this process may replay.
        own_problems: what is wrong with the process itself; takes a few seconds at most, and raises nothing.
        clock: monotonic seconds.

    """

    who: str
    door: Door
    application: Callable[[], AbstractAsyncContextManager[Application]]
    replays: frozenset[Direction]
    own_problems: Callable[[], Awaitable[Sequence[str]]] = _no_problems
    clock: Callable[[], float] = time.monotonic
    _known: Overview | None = field(default=None, init=False)
    _look: Fresh[Look] = field(init=False)

    def __post_init__(self) -> None:
        self._look = Fresh(self._look_now, self.clock)

    async def get(self, headers: Mapping[str, str]) -> Answer:
        """Return the page. 503 while Postgres does not answer: what is shown then is what was read last.

        Args:
            headers: the request's, their names in small letters.

        """
        if not self.door.may_read(headers):
            return self._closed()
        return self._page(await self._look(), headers)

    async def get_json(self, headers: Mapping[str, str]) -> Answer:
        """Return the same as JSON."""
        if not self.door.may_read(headers):
            return self._closed()
        look = await self._look()
        body = orjson.dumps(look.facts(), option=orjson.OPT_NON_STR_KEYS)
        return _answer(_status_of(look), body, "application/json")

    async def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Replay or discard what a form has chosen, and return the page with what became of it.

        Nothing is done without the token, whatever else the request shows.
        """
        if len(body) > MOST_BYTES:
            return _answer(413, b"The form is too long.\n", _TEXT)
        form = parse(body)
        refused = self.door.refusal(headers, form.token)
        if refused is not None:
            log.warning("page.refused", why=refused.name.lower())
            if not self.door.may_read(headers):
                return _answer(403, f"{refused.value}\n".encode(), _TEXT)
            status, said = 403, saying(refused.value, is_good=False)
        elif form.wanted is None or not form.wanted.numbers:
            why = "That form makes no sense" if form.wanted is None else "No letter was chosen"
            status, said = 400, saying(f"{why}; nothing was done.", is_good=False)
        else:
            status, said = await self._act(form.wanted)
        return self._page(await self._look(), headers, said, status=status)

    async def _act(self, wanted: Wanted) -> tuple[int, Markup]:
        try:
            async with asyncio.timeout(ACT_S), self.application() as application:
                report = await carry_out(application, wanted, self.replays)
        except TimeoutError:
            why = f"It took longer than {ACT_S:.0f} s"
        except CrossfeedError as error:
            why = str(error)
        else:
            log.info("page.acted", act=wanted.act.value, done=len(report.done), refused=len(report.refused))
            return 200, outcome(wanted.act, report)
        finally:
            self._look.forget()
        log.warning("page.failed", act=wanted.act.value)
        return 503, saying(f"{why}. What was done is done: see below what is left.", is_good=False)

    async def _look_now(self) -> Look:
        """Look; raises nothing."""
        unread: list[str] = []
        found, own = await asyncio.gather(answer("Postgres", self._read(), unread), self.own_problems())
        if found is not None:
            self._known = found
        problems = [unreachable(why) for why in unread]
        if found is not None:
            problems += problems_of(found, self.door.settings)
        # What the process says of itself, and nothing has said yet.
        said = {problem.what for problem in problems}
        problems += [unreachable(f"{self.who}: {what}") for what in own if what not in said]
        problems.sort(key=lambda problem: problem.severity is not Severity.BROKEN)
        return Look(self._known, tuple(problems), is_old=found is None)

    async def _read(self) -> Overview:
        async with self.application() as application:
            with translated("reading how everything stands"):
                async with application.engine.connect() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    return await read_overview(connection)

    def _page(
        self, look: Look, headers: Mapping[str, str], said: Markup = NOTHING, *, status: int | None = None
    ) -> Answer:
        refused = self.door.standing(headers)
        body = render(look, self.door.settings, self.who, refused=refused, replays=self.replays, outcome=said)
        return _answer(
            status or _status_of(look), body, "text/html; charset=utf-8", {"Content-Security-Policy": policy()}
        )

    def _closed(self) -> Answer:
        # Without a token nobody could answer.
        ask = {} if self.door.settings.admin_token is None else {"WWW-Authenticate": 'Basic realm="Crossfeed"'}
        return _answer(401 if ask else 403, _ASK.encode(), _TEXT, ask)


def _status_of(look: Look) -> int:
    return 503 if look.is_old else 200


def _answer(status: int, body: bytes, kind: str, more: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, body, {**_HEADERS, "Content-Type": kind, **(more or {})})
