"""Compares every document in both stores with what was acknowledged last, deeply, and says what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from core.envelope import Origin
from core.errors import DocumentRefusedError
from core.projection import same_json
from functions.demo.states import in_cosmos, in_postgres

if TYPE_CHECKING:
    from core.content import Document
    from core.identity import Identity
    from core.mapping import EntityMapping
    from functions.demo.ledger import Ledger, Write
    from functions.demo.states import State, States
    from functions.demo.stores import Stores


class Fault(Enum):
    """What can be wrong with a document in one store; the first that applies counts."""

    LOST = "lost"
    STALE = "stale"
    ECHOED = "echoed"


@dataclass(slots=True)
class Faults:
    """The documents that are wrong, each with one fault."""

    by_identity: dict[Identity, Fault] = field(default_factory=dict)

    def add(self, identity: Identity, fault: Fault) -> None:
        """Note a fault; a graver one of the same document stays."""
        known = self.by_identity.get(identity)
        order = list(Fault)
        if known is None or order.index(fault) < order.index(known):
            self.by_identity[identity] = fault

    def count(self, fault: Fault) -> int:
        """Count the documents with this fault."""
        return sum(found is fault for found in self.by_identity.values())


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a demo.

    `written` counts acknowledged writes (`creates`, `updates` and `deletes`, the load included), `carried` those of
    them that were seen in the other store; `lost`, `stale` and `echoed` count documents, `dead_lettered` dead letters.
    `documents` is how many were compared, tombstones included. Lags are milliseconds by direction.
    """

    written: int
    carried: int
    lost: int
    stale: int
    echoed: int
    dead_lettered: int
    creates: int
    updates: int
    deletes: int
    documents: int
    seconds: float
    lag_ms: dict[str, dict[str, float]]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, stale, echoed or dead-lettered."""
        return not (self.lost or self.stale or self.echoed or self.dead_lettered)


async def compare(stores: Stores, ledger: Ledger, faults: Faults) -> int:
    """Compare all documents and tombstones; return how many there are.

    Args:
        stores: in which everything was carried and nobody writes.
        ledger: what was acknowledged.
        faults: where the findings go.

    """
    count = 0
    for mapping in stores.mappings:
        states: dict[Origin, States] = {
            Origin.POSTGRES: await in_postgres(stores, mapping),
            Origin.COSMOS: await in_cosmos(stores, mapping),
        }
        expected = {identity for identity in ledger.latest if identity.entity == mapping.name}
        everything = expected.union(*states.values())
        count += len(everything)
        for identity in everything:
            held = [states[store].get(identity) for store in Origin]
            write, is_foreign = ledger.latest.get(identity), identity in ledger.foreign
            for store, state in zip(Origin, held, strict=True):
                fault = _judge(mapping, write, state, store, is_foreign=is_foreign)
                if fault is not None:
                    faults.add(identity, fault)
            if not _same(*[None if state is None else state.content for state in held]):
                faults.add(identity, Fault.STALE)
    return count


def _judge(
    mapping: EntityMapping[Any], write: Write | None, state: State | None, store: Origin, *, is_foreign: bool
) -> Fault | None:
    """Say what is wrong with the state of one document in one store, after the write acknowledged last."""
    if write is None:
        return Fault.STALE  # a document that nobody wrote
    if state is None or (state.content is None and write.content is not None):
        return Fault.LOST
    # An update in Postgres, of the key as well, leaves what it did not change as a legacy application spelled it.
    is_update = write.stamp is not None and write.stamp.version > 1
    found = _respelled(mapping, state.content) if is_update else state.content
    if not (_same(write.content, state.content) or _same(write.content, found)):
        return Fault.STALE
    return _judge_stamp(write, state, store, is_foreign=is_foreign)


def _judge_stamp(write: Write, state: State, store: Origin, *, is_foreign: bool) -> Fault | None:
    """Say whether a state with the right content is that very write: an echo changes the stamp alone."""
    if write.stamp is None:
        # A foreign document: Cosmos DB holds exactly that one, without a stamp; Postgres took exactly that one.
        is_untouched = state.etag == write.etag and (state.stamp is None) is (store is Origin.COSMOS)
        return None if is_untouched else Fault.ECHOED
    if state.stamp is None or state.stamp < write.stamp:
        return Fault.STALE
    # Of a state without a stamp the row has one of its own, which the document's next stamp may not exceed.
    is_rows_own = is_foreign and store is Origin.POSTGRES and write.origin is Origin.COSMOS
    is_same_delete = write.content is None and state.stamp.version == write.stamp.version
    # Else it was written again, by nobody.
    return Fault.ECHOED if state.stamp > write.stamp and not (is_rows_own or is_same_delete) else None


def _respelled(mapping: EntityMapping[Any], content: Document | None) -> Document | None:
    """Return content as the library spells it today; as it is if the model cannot read it."""
    try:
        return None if content is None else mapping.document(mapping.entity(content))
    except DocumentRefusedError:
        return content


def _same(one: Any, other: Any) -> bool:  # noqa: ANN401 - contents, or None
    return (one is None and other is None) or (one is not None and other is not None and same_json(one, other))
