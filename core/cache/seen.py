"""Remembers what this process has seen, so that no entry shows it an older state, though an invalidation was lost.

Per key the last thing seen, and when. An entry is trusted if it is no older by its stamp; where stamps do not say (a
deleted document, a foreign writer's, a look-up), only if its load began after that.

The memory is bounded: of two generations the older one is forgotten. What it knew mattered only for entries that were
loaded before it ended, so those are trusted no more; after the longest life of an entry there are none left anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from core.identity import Identity
from core.stamp import Stamp

if TYPE_CHECKING:
    from collections.abc import Callable

MARGIN_S: Final = 1.0
"""How far Redis' clock may step between two looks at it, in seconds."""


class Nothing(Enum):
    """Seen, and not comparable."""

    ABSENT = "there is none"
    UNKNOWN = "there may be anything"


Mark = Stamp | Identity | Nothing


@dataclass(frozen=True, slots=True)
class _Note:
    mark: Mark
    at: float
    from_entry: bool


class Seen:
    """The memory of one process.

    Args:
        size: how many keys a generation takes.
        keep_s: how long an entry lives at most, from the begin of its load, in seconds.
        clock: monotonic seconds.

    """

    def __init__(self, size: int, keep_s: float, clock: Callable[[], float]) -> None:
        self._size = size
        self._keep_s = keep_s
        self._clock = clock
        self._notes: dict[str, _Note] = {}
        self._began = clock()
        self._before: dict[str, _Note] = {}
        self._forgotten_at = float("-inf")
        self._distrusted_at = float("-inf")

    def note(self, key: str, mark: Mark, began: float | None = None, *, from_entry: bool = False) -> None:
        """Note what was seen.

        Args:
            key: of an entity or a look-up.
            mark: what there was.
            began: when the look at it began, by the clock; now unless given (a write).
            from_entry: whether an entry said so, not the store.

        """
        now = self._clock()
        last = self._last(key)
        if last is not None:
            overlaps = began is not None and last.at > began
            if isinstance(mark, Stamp) and isinstance(last.mark, Stamp):
                if mark < last.mark and overlaps:
                    return  # of two looks at the same time, it was the one that came first
                if mark < last.mark:
                    mark = Nothing.UNKNOWN  # a foreign writer's document began to count anew
            elif overlaps and mark != last.mark:
                mark = Nothing.UNKNOWN  # which of the two came first, nothing says
        self._rotate(now)
        self._notes[key] = _Note(mark, now, from_entry)

    def distrust(self) -> None:
        """Trust no entry whose load began before now, whatever it says: this process wrote, nobody knows what."""
        self._distrusted_at = self._clock()

    def is_behind(self, key: str, mark: Mark) -> bool:
        """Whether the store has told less than an entry did, which some other process has loaded."""
        last = self._last(key)
        if last is None or not last.from_entry or not isinstance(last.mark, Stamp):
            return False
        return mark is Nothing.ABSENT or (isinstance(mark, Stamp) and mark < last.mark)

    def trusts(self, key: str, mark: Mark, asked: float, age_s: float) -> bool:
        """Whether an entry is no older than what was seen.

        Args:
            key: of the entry.
            mark: what it says.
            asked: when Redis was asked, by the clock.
            age_s: of the entry when Redis answered, in seconds.

        """
        if not -MARGIN_S <= age_s <= self._keep_s or asked - age_s <= self._distrusted_at + MARGIN_S:
            return False
        last = self._last(key)
        if last is None:
            return asked - age_s > self._forgotten_at + MARGIN_S
        if isinstance(mark, Stamp) and isinstance(last.mark, Stamp):
            return mark >= last.mark
        return mark == last.mark or asked - age_s > last.at + MARGIN_S

    def _last(self, key: str) -> _Note | None:
        return self._notes.get(key) or self._before.get(key)

    def _rotate(self, now: float) -> None:
        if len(self._notes) < self._size and now - self._began <= self._keep_s + MARGIN_S:
            return
        if self._before and now - self._began <= self._keep_s + MARGIN_S:
            self._forgotten_at = self._began
        self._before, self._notes, self._began = self._notes, {}, now
