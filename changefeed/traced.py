"""Follows what was mirrored into Postgres in the traces of its writers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.envelope import Origin, Ours, trace_of
from core.tracing import MIRROR, is_tracing, record_step

if TYPE_CHECKING:
    from collections.abc import Iterable

    from core.phases import PhaseRow
    from core.postgres.authority import Change
    from core.postgres.mirrored_batch import Outcome


def record_mirrored(shown: Iterable[Change], phase: PhaseRow, outcome: Outcome, began: int) -> None:
    """Record the documents of a batch that has committed, each as a child of the write that it names.

    Echoes are nobody's writes. A document that a foreign writer has edited since names a write that is not this one.
    Where something of the batch was set aside, which of them it was is in the log and not in the spans.

    Args:
        shown: the newest change of each document.
        phase: in which they were applied.
        outcome: of the whole batch.
        began: when the batch began, in nanoseconds since 1970.

    """
    if phase.primary is not Origin.COSMOS or not is_tracing():
        return
    said = "some set aside" if outcome.parked or outcome.dead_lettered else "mirrored"
    for change in shown:
        parent = trace_of(change.document)
        if parent is None or change.departed:
            continue
        author = change.author
        if isinstance(author, Ours) and author.origin is Origin.COSMOS:
            entity, _, id_ = change.identity
            of = {"crossfeed.entity": entity, "crossfeed.id": id_, "crossfeed.outcome": said}
            record_step(MIRROR, parent, began, of)
