"""The check of a step that compares both stores while they are in use: the verification that precedes a drain."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from core.migration.checks import CLOSING_COSMOS, TO_COSMOS, TO_POSTGRES, Asked, Check, answered, found
from core.migration.validation import validate

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.migration.parity import Parity
    from core.progress import Progress

_COMPARED = (TO_POSTGRES, TO_COSMOS, CLOSING_COSMOS)


async def ask_parity(
    asked: Asked, progress: Callable[[Progress], None], on_parity: Callable[[Parity], None]
) -> list[Check]:
    """Compare both stores, if the step leaves one behind that the other has to replace.

    What is being written at every look differs from nothing: it is looked at again when nobody writes.

    Args:
        asked: the step.
        progress: told how far the comparison is.
        on_parity: told what it found.

    """
    if asked.step not in _COMPARED:
        return [found("parity", [], "not asked: this step leaves no store behind that the other has to replace", "")]

    async def question() -> Check:
        parity = await validate(
            asked.engine,
            asked.store,
            asked.mappings,
            asked.settings,
            # Stamps say nothing of contents that somebody changed behind them, and what Postgres has sent is final.
            deep=asked.step == TO_COSMOS,
            settle_s=asked.options.settle_s,
            progress=progress,
        )
        on_parity(parity)
        return _judged(parity)

    return [await answered("parity", question(), "bring both stores back, and ask again")]


def _judged(parity: Parity) -> Check:
    problems = []
    for entity, one in parity.entities.items():
        if one.total > one.accounted:
            unknown = [difference for difference in one.differences if difference.letter is None]
            kinds = Counter(difference.kind.value for difference in unknown)
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            example = f", {unknown[0].identity.id} for one" if unknown else ""
            problems.append(f"{entity}: {one.total - one.accounted} differences ({counts}{example})")
    rows = sum(one.rows for one in parity.entities.values())
    busy = sum(one.busy for one in parity.entities.values())
    return found(
        "parity",
        problems,
        f"{rows} rows agree with their documents" + (f", but for {busy} that are written all the time" if busy else ""),
        "see crossfeed validate, then: crossfeed repair --apply",
    )
