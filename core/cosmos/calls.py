"""One call of the guarded write: what it still has to do, what became of each item, and whether it may go on."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.cosmos.gathering import StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from core.cosmos.publish import Outcome, Publish


@dataclass(slots=True, eq=False)
class Job:
    """One item of a call, and what became of it."""

    item: Publish
    outcome: Outcome | None = None


@dataclass(slots=True)
class Call:
    """What all parts of one call of `GuardedWriter.write` share.

    Args:
        check: called just before every request that writes; raises if the caller may not write any more.
        on_outcome: told of each outcome, as it is known.
        backlog: whether its requests yield to fresh ones.

    """

    check: Callable[[], None]
    on_outcome: Callable[[Publish, Outcome], None] | None
    backlog: bool
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    def may_read(self) -> None:
        """Raise StoppedError if another part of the call has failed."""
        if self._stopped.is_set():
            msg = "another write of the same call has failed"
            raise StoppedError(msg)

    def may_write(self) -> None:
        """See `may_read`; raise also what `check` raises."""
        self.may_read()
        self.check()

    def decide(self, job: Job, outcome: Outcome) -> None:
        """Record what became of an item."""
        job.outcome = outcome
        if self.on_outcome is not None:
            self.on_outcome(job.item, outcome)

    async def or_stop(self, work: Coroutine[None, None, None]) -> None:
        """Await a part of the call; when it fails, no other part begins another request."""
        try:
            await work
        except BaseException:
            self._stopped.set()
            raise

    async def pause(self, seconds: float) -> None:
        """Sleep, but no longer than the call goes on."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
