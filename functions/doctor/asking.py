"""Asks one question: it takes a bounded time, and whatever goes wrong in it is an answer."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from psycopg.errors import InsufficientPrivilege

from core.errors import CrossfeedError
from functions.doctor.findings import Examined, Finding, answer, skipped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

TIMEOUT_S: Final = 15.0
"""How long one question may take: longer than a client needs to find out that nobody answers."""


CLOSE_S: Final = 5.0
"""How long what was opened may take to close: nothing of it matters any more."""

_BACK: Final = ("what was asked is not known", "bring it back, then run: crossfeed doctor")


async def asked(
    name: str,
    where: str,
    question: Awaitable[Examined],
    *,
    otherwise: tuple[str, str] = _BACK,
    timeout_s: float = TIMEOUT_S,
) -> Examined:
    """Return the answer to a question; an error, and silence, are answers.

    Args:
        name: of the question.
        where: who is asked, for an answer that is none.
        question: begins when it is awaited here.
        otherwise: why it matters that there is no answer, and what cures that.
        timeout_s: after which silence is the answer, in seconds.

    """
    try:
        async with asyncio.timeout(timeout_s):
            return await question
    except TimeoutError:
        said = Finding(f"no answer within {timeout_s:.0f} s", where, *otherwise)
        return Examined(name, "", (said,), is_silence=True)
    except Exception as error:  # noqa: BLE001 - the outermost of a question; the others are asked all the same
        return _failed(name, where, otherwise, error)


def asked_now(name: str, where: str, question: Callable[[], Examined]) -> Examined:
    """Return the answer to a question that waits for nobody; an error is one, too."""
    try:
        return question()
    except Exception as error:  # noqa: BLE001 - as above
        return _failed(name, where, _BACK, error)


def _failed(name: str, where: str, otherwise: tuple[str, str], error: Exception) -> Examined:
    if isinstance(error.__cause__, InsufficientPrivilege):
        return skipped(name, "this role may not ask that: the tables' owner may")
    if isinstance(error, CrossfeedError):
        return answer(name, [Finding(str(error), where, *otherwise)], "")
    # Its message may quote a value.
    what = f"the question itself failed: {type(error).__name__}"
    cure = "report it, with this line and what crossfeed --version says"
    return answer(name, [Finding(what, where, _BACK[0], cure)], "")


@asynccontextmanager
async def quiet_stack() -> AsyncIterator[AsyncExitStack]:
    """Yield a stack that closes what was opened, within CLOSE_S, and keeps quiet about what cannot be closed."""
    stack = AsyncExitStack()
    try:
        yield stack
    finally:
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_S):
                await stack.aclose()
