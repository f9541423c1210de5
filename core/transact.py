"""Runs a use case again as long as it was refused before anything of it was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_before_delay, wait_random_exponential

from core.entity import Entity
from core.errors import (
    ConcurrencyError,
    ConflictError,
    PermanentError,
    PhasePinnedError,
    PrimaryMovedError,
    TransientError,
)
from core.repository import EntityRepository

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from core.events import Event
    from core.identity import Identity
    from core.repository import Repository, UnitOfWork

log = structlog.get_logger()

E = TypeVar("E", bound=Entity)
R = TypeVar("R", bound=EntityRepository[Any])
T = TypeVar("T")

_WAIT_FIRST_S: Final = 0.01
_WAIT_MAX_S: Final = 0.15

NOTHING_WRITTEN: Final = (ConflictError, TransientError, PermanentError)
"""What a commit raises when it is certain that nothing was written."""


async def transact(
    begin: Callable[[], AbstractAsyncContextManager[UnitOfWork]],
    use_case: Callable[[UnitOfWork], Awaitable[T]],
    deadline_s: float,
) -> T:
    """See Crossfeed.transact; `begin` begins a unit of work on the primary as it is then."""
    run = _Run(begin, use_case)
    repeating = AsyncRetrying(
        retry=retry_if_exception(run.may_repeat),
        wait=wait_random_exponential(multiplier=_WAIT_FIRST_S, max=_WAIT_MAX_S),
        stop=stop_before_delay(deadline_s),
        before_sleep=_note,
        reraise=True,
    )
    return await repeating(run.once)


class _Run(Generic[T]):
    def __init__(
        self,
        begin: Callable[[], AbstractAsyncContextManager[UnitOfWork]],
        use_case: Callable[[UnitOfWork], Awaitable[T]],
    ) -> None:
        self._begin = begin
        self._use_case = use_case
        self._work: _Observed | None = None

    async def once(self) -> T:
        self._work = None
        async with self._begin() as work:
            self._work = _Observed(work)
            return await self._use_case(self._work)

    def may_repeat(self, error: BaseException) -> bool:
        """Whether another attempt may end differently, and nothing of this one could have been written."""
        refused = isinstance(error, ConcurrencyError | PrimaryMovedError) and not isinstance(error, PhasePinnedError)
        return refused and (self._work is None or not self._work.may_have_written)


class _Observed:
    """Implements core.repository.UnitOfWork; sees whether a commit may have written.

    What a store's unit of work has beyond that (`connection`, on Postgres) is reached through it.
    """

    def __init__(self, work: UnitOfWork) -> None:
        self._work = work
        self.may_have_written = False

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the unit of work has
        return getattr(self._work, name)

    def __getitem__(self, model: type[E]) -> Repository[E]:
        """See UnitOfWork."""
        return self._work[model]

    def of(self, repository: type[R]) -> R:
        """See UnitOfWork."""
        return self._work.of(repository)

    def record(self, event: Event, *, of: Entity | Identity) -> None:
        """See UnitOfWork."""
        self._work.record(event, of=of)

    async def commit(self) -> None:
        """See UnitOfWork."""
        before, self.may_have_written = self.may_have_written, True
        try:
            await self._work.commit()
        except NOTHING_WRITTEN:
            self.may_have_written = before
            raise

    async def rollback(self) -> None:
        """See UnitOfWork."""
        await self._work.rollback()


def _note(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.info("transact.repeated", attempt=state.attempt_number, error=type(error).__name__)
