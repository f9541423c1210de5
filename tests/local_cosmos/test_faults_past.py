"""The earlier states that a replica shows: each as it was, however they are asked for, and bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.local.cosmos.errors import CosmosError
from core.local.cosmos.faults.replicas import remember
from core.local.cosmos.operations import feed
from core.local.cosmos.state import past as past_module
from core.local.cosmos.state.account import Account
from core.local.cosmos.state.past import Past
from core.local.cosmos.state.transaction import Transaction

if TYPE_CHECKING:
    import pytest

    from core.local.cosmos.state.container import Container
    from core.local.cosmos.state.partition import PhysicalPartition


def test_the_past_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past_module, "MAX_CHANGES", 20)
    container, account = fresh()
    partition = container.partitions[0]
    partition.past = past = Past(partition.lsn)
    for n in range(100):
        write(account, container, "p", [("upsert", "a", n)])
    assert len(past._commits) == 20
    assert past.floor == partition.lsn - 20


def fresh() -> tuple[Container, Account]:
    account = Account()
    account.create_database({"id": "d"}, None, None)
    key = {"paths": ["/pk"], "kind": "Hash", "version": 2}
    properties = {"id": "c", "partitionKey": key, "defaultTtl": -1, "uniqueKeyPolicy": {"uniqueKeys": [UNIQUE]}}
    return account.create_container("d", properties, None, None), account


UNIQUE = {"paths": ["/u"]}
Part = tuple[str, str, int]


def write(account: Account, container: Container, key: str, parts: list[Part]) -> None:
    transaction = Transaction(account, container, (key,))
    try:
        for kind, id_, n in parts:
            if kind == "delete":
                transaction.delete(id_)
            elif kind == "rename":
                transaction.replace(id_, {"id": id_ + "'", "pk": key, "n": n, "u": n})
            else:
                body = {"id": id_, "pk": key, "n": n, "u": n}
                transaction.upsert({**body, "ttl": 10} if kind == "expiring" else body)
        transaction.commit()
    except CosmosError:
        transaction.rollback()


def seen(partition: PhysicalPartition, now: float) -> list[Any]:
    """Return all that can be read, without what has expired."""
    pages = [feed.latest_versions(partition, feed.FeedQuery(after, limit=1 << 30)) for after in range(partition.lsn)]
    scanned = list(partition.scan())
    dead = {b'%b,"_lsn":%d}' % (d.raw[:-1], d.lsn) for d in scanned if d.expires is not None and d.expires <= now}
    alive = [d for d in scanned if d.expires is None or d.expires > now]
    by_key = {(d.key, d.id): d.raw for ds in partition.logical.values() for d in ds.values() if d in alive}
    return [
        partition.lsn,
        [d.raw for d in alive],
        by_key,
        [[item for item in page.items if item not in dead] for page in pages],
        [page.lsn for page in pages],
        [(entry.lsn, entry.old, entry.new, entry.expired) for entry in partition.history_after(0)],
    ]


part = st.tuples(st.sampled_from(["upsert", "expiring", "delete", "rename"]), st.sampled_from(["a", "b"]))
step = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(["p", "q"]), st.lists(part, min_size=1, max_size=3)),
    st.tuples(st.just("advance"), st.integers(1, 8)),
    st.tuples(st.just("split")),
    st.tuples(st.just("look"), st.integers(0, 6)),
)


class Witness:
    """Remembers all states of a container, and compares what is shown as its past to them."""

    def __init__(self) -> None:
        self.container, self.account = fresh()
        self.container.keeps_history = True
        self.account.clock.now = lambda: 1_000_000.0 + self.account.clock.offset  # type: ignore[method-assign]
        remember(self.container)
        self.states: dict[tuple[str, int], list[Any]] = {}
        self.note()

    def note(self) -> None:
        self.container.expire()
        for partition in self.container.partitions:
            self.states.setdefault((partition.id, partition.lsn), seen(partition, 0.0))

    def compare(self, partition: PhysicalPartition, lsn: int) -> None:
        known = self.states.get((partition.id, lsn))
        if known is None or lsn == partition.lsn:
            return
        assert partition.past is not None
        now = self.account.clock.now()
        present = seen(partition, now)
        live = [(d, d.live, d.lsn) for d in partition.by_rid.values()]
        then = seen(partition.past.view(partition, lsn, now), now)
        expired = {raw for raw in known[1] if raw not in then[1]}
        assert all(b'"ttl":10' in raw for raw in expired)
        assert then[0] == lsn
        assert then[1] == [raw for raw in known[1] if raw not in expired]
        assert then[2] == {name: raw for name, raw in known[2].items() if raw not in expired}
        gone = tuple(raw[:-1] for raw in expired)
        assert then[3] == [[item for item in items if not (gone and item.startswith(gone))] for items in known[3]]
        assert then[4:] == known[4:]
        assert seen(partition, now) == present
        assert [(d, d.live, d.lsn) for d in partition.by_rid.values()] == live


@settings(max_examples=60, deadline=None)
@given(st.lists(step, min_size=3, max_size=14))
def test_every_earlier_state_is_shown_as_it_was_and_the_present_stays(script: list[Any]) -> None:
    witness = Witness()
    container = witness.container
    for n, (kind, *arguments) in enumerate(script):
        match kind:
            case "write":
                key, parts = arguments
                write(witness.account, container, key, [(what, id_, n) for what, id_ in parts])
            case "advance":
                witness.account.clock.advance(arguments[0])
            case "split":
                container.split(container.partitions[0].id)
            case "look":
                for partition in container.partitions:
                    witness.compare(partition, partition.lsn - arguments[0])
        witness.note()
    for partition in container.partitions:
        for lsn in range(1, partition.lsn):
            witness.compare(partition, lsn)


def test_an_earlier_state_that_was_shown_already_is_shown_again_after_a_change() -> None:
    witness = Witness()
    for n, id_ in enumerate("abb"):
        write(witness.account, witness.container, "p", [("upsert", id_, n)])
        witness.note()
    partition = witness.container.partitions[0]
    lsn = partition.lsn - 1
    for n in range(3, 6):
        witness.compare(partition, lsn)
        write(witness.account, witness.container, "p", [("upsert", "a", n)])
        witness.note()


def test_an_earlier_state_that_was_shown_already_outlives_a_transaction_that_is_undone() -> None:
    witness = Witness()
    for n, (key, id_) in enumerate([("q", "b"), ("p", "a")]):
        write(witness.account, witness.container, key, [("upsert", id_, n)])
        witness.note()
    partition = witness.container.partitions[0]
    witness.compare(partition, partition.lsn - 1)
    write(witness.account, witness.container, "q", [("upsert", "b", 2), ("upsert", "a", 2)])  # against the unique key
    witness.note()
    witness.compare(partition, partition.lsn - 1)
