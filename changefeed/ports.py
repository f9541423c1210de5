"""What a processor needs of whatever applies the pages of a change feed: the mirror, the consumers of domain events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from core.cosmos.feed import pages

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from azure.cosmos.aio import ContainerProxy
    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.content import Document
    from core.cosmos.feed import FeedPage, FeedRange


class Acknowledge(Protocol):
    """What has to become durable together with a batch."""

    async def __call__(self, connection: AsyncConnection) -> None:
        """Write it as the last thing in the batch's own transaction; an error rolls the batch back.

        Raises:
            CrossfeedError: the batch must not take effect, such as because its range is another processor's by now.

        """
        ...


class Applier(Protocol):
    """Applies what one feed shows. Called by many feed ranges at once, for one range by one call at a time.

    Whatever is a document's own fault is its business, and is done with (a dead letter, parked) in the same
    transaction: an error of `apply` means that the whole page is to be applied again, for ever.
    """

    async def begin(self) -> Any:  # noqa: ANN401 - the processor only hands it back
        """Read what has to be read before the documents are, such as the phase; called anew after every error.

        Raises:
            StoreUnavailableError: Postgres did not answer.

        """
        ...

    async def apply(self, container: str, documents: Sequence[Document], begun: Any, acknowledge: Acknowledge) -> None:  # noqa: ANN401 - of `begin`
        """Apply one page in one transaction, with what acknowledges it, or nothing and an error.

        May be called again with documents that were applied before, also by another process.

        Args:
            container: the container's name.
            documents: with their system properties, in feed order; never empty.
            begun: what `begin` returned, before these documents were read.
            acknowledge: called once, last, on the connection of that transaction.

        Raises:
            CrossfeedError: nothing was applied; the processor begins again.

        """
        ...

    async def idle(self, begun: Any) -> bool:  # noqa: ANN401 - of `begin`
        """Do a small piece of what does not wait for changes, such as parked documents that are due.

        Called now and then by every process that holds a range of the feed, so by several at once.

        Returns:
            Whether more is due at once.

        Raises:
            CrossfeedError: nothing was done; it is called again later.

        """
        ...

    def counts(self) -> Mapping[str, int]:
        """Say what was done since the process began, by snake_case name, for the metrics."""
        ...


class Reads(Protocol):
    """Reads the changes of one feed range, as `core.cosmos.feed.pages` does those of the feed of latest versions."""

    def __call__(
        self, container: ContainerProxy, feed_range: FeedRange, continuation: str | None, page_size: int, /
    ) -> AsyncGenerator[FeedPage, None]:
        """Yield pages until there are none left; then one empty page."""
        ...


@dataclass(frozen=True, slots=True)
class Feed:
    """The change feed of one container, and who applies it.

    Args:
        name: of its leases and checkpoints, such as `mirror/Accounts`; two feeds may read one container.
        container: the container.
        container_name: its name.
        applier: applies its pages.
        page_size: about how many documents a page holds at most.
        read: how its pages are read.
        begins_now: it shows nothing from before it was first read, so where that was is kept at once.

    """

    name: str
    container: ContainerProxy
    container_name: str
    applier: Applier
    page_size: int = 100
    read: Reads = pages
    begins_now: bool = False
