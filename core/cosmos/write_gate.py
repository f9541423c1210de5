"""What lets a write of a repository through to Cosmos DB, which itself refuses nothing to writers of yesterday."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Protocol


class WriteGate(Protocol):
    """Stands around every request that writes: at its sending and at its answer."""

    def writing(self, epoch: int) -> AbstractAsyncContextManager[None]:
        """Let one write through; the block sends it and handles its answer.

        Args:
            epoch: the epoch of the unit of work that writes.

        Raises:
            PrimaryMovedError: on entering; this process may not write in that epoch, nothing was sent.
            StoreUnavailableError: on entering; whether it may cannot be found out, nothing was sent.
            OutcomeUnknownError: on leaving without an error; the right to write had ended when the answer was handled,
                so the write may have come too late to count.

        """
        ...


class Ungated:
    """Lets everything through: where no switch can begin behind the writer's back."""

    def writing(self, epoch: int) -> AbstractAsyncContextManager[None]:
        """See WriteGate."""
        return nullcontext()
