"""Asks a question once for everybody who waits for its answer: a slow store is not asked by one after the other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from core.errors import CrossfeedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class Coalesced(Generic[T]):
    """One question at a time; whoever waits takes the answer, or the error, of a question asked after they came.

    So an answer is never older than the call that it is given to, and nobody waits for more than two questions.

    Args:
        ask: the question.

    """

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._asked = 0
        self._answered = 0
        self._answer: T
        self._error: CrossfeedError | None = None

    async def __call__(self) -> T:
        """Return an answer to a question that was asked after this call.

        Raises:
            CrossfeedError: the question's own.

        """
        needed = self._asked + 1
        async with self._asking:
            if self._answered < needed:
                self._asked += 1
                try:
                    self._answer = await self._ask()
                except CrossfeedError as error:
                    self._error = error
                else:
                    self._error = None
                self._answered = self._asked
            if self._error is not None:
                raise self._error
            return self._answer
