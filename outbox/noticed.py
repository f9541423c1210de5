"""Says what a page of the log means for the cache: the state that was loaded of everything that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cache.changes import Changed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from outbox.current_state import Loaded
    from outbox.log_reader import Message


def changes_of(messages: Iterable[Message], loaded: Loaded) -> list[Changed]:
    """Return what changed, each document once.

    Of what no state was loaded (neither row nor tombstone, a row that must be lifted first, one that cannot be sent)
    only the identity is known, and whatever is cached of it goes.

    Args:
        messages: of the page.
        loaded: the states that were read after them, so that they are at least as new.

    """
    changes = {
        item.identity: Changed(item.identity, item.stamp, item.deleted, None if item.deleted else item.document)
        for item in loaded.publish
    }
    for message in messages:
        if message.identity not in changes:
            changes[message.identity] = Changed(message.identity, None, deleted=False, content=None)
    return list(changes.values())
