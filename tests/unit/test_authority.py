"""The mirror's rules, one by one, without a store: what a change may do given what is held."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.envelope import Origin, internal_document, stamped
from core.identity import Identity
from core.phases import Phase, PhaseRow, PhaseState
from core.postgres.authority import (
    LATE_WRITE,
    ROGUE_WRITE,
    Apply,
    Change,
    Decision,
    Ignore,
    Quarantine,
    ReadByKey,
    Take,
    decide,
    is_behind,
)
from core.postgres.held import Held, HeldRow, HeldTombstone
from core.stamp import AFTER_ALL, Position, Stamp

IDENTITY = Identity("Account", '["a"]', "a")
COSMOS = PhaseRow(Phase.DUAL_WRITE_COSMOS_READ, 5, PhaseState.STEADY)
POSTGRES = PhaseRow(Phase.DUAL_WRITE_POSTGRES_READ, 5, PhaseState.STEADY)


def feed(document: dict[str, Any], ts: int = 100, lsn: int | None = 10, etag: str = "new") -> Change:
    system = {"_etag": etag, "_ts": ts} | ({} if lsn is None else {"_lsn": lsn})
    return Change.of(IDENTITY, document | system)


def foreign(**where: Any) -> Change:
    return feed({"id": "a", "Name": "foreign"}, **where)


def ours(stamp: tuple[int, int], origin: Origin = Origin.COSMOS, *, deleted: bool = False, **where: Any) -> Change:
    return feed(stamped({"id": "a", "Name": "ours"}, Stamp(*stamp), origin, deleted=deleted), **where)


def row(stamp: tuple[int, int], taken: tuple[int, int] | None = (50, 5), etag: str | None = "old") -> Held:
    position = Position(*taken) if taken is not None else None
    return Held(IDENTITY, HeldRow(Stamp(*stamp), position, etag if taken else None, "{}", {}), None)


def tombstone(stamp: tuple[int, int], taken: tuple[int, int] | None = (50, 5), etag: str | None = "old") -> Held:
    return Held(IDENTITY, None, HeldTombstone(Stamp(*stamp), Position(*taken) if taken else None, etag))


NOTHING = Held(IDENTITY, None, None)


def judge(
    change: Change, held: Held, phase: PhaseRow = COSMOS, *, same: bool = False, confirmed: bool = False
) -> Decision:
    return decide(change, held, phase, lambda: same, confirmed=confirmed)


@pytest.mark.parametrize(
    ("change", "held", "expected"),
    [
        pytest.param(foreign(), NOTHING, Apply(Stamp(5, 1)), id="a first foreign document"),
        pytest.param(ours((3, 7)), NOTHING, Apply(Stamp(3, 7)), id="a first document of ours gives its stamp"),
        pytest.param(foreign(etag="old"), row((5, 3)), Ignore(), id="the same etag as last taken"),
        pytest.param(foreign(etag="old"), tombstone((5, 3)), Ignore(), id="the same tombstone as last taken"),
        pytest.param(foreign(), row((5, 3)), Apply(Stamp(5, 4)), id="a foreign change further on"),
        pytest.param(ours((5, 9)), row((5, 3)), Apply(Stamp(5, 9)), id="ours, newer, gives its stamp"),
        pytest.param(ours((5, 2)), row((5, 3)), Apply(Stamp(5, 4)), id="an old document of ours, written back whole"),
        pytest.param(foreign(ts=50, lsn=4), row((5, 3)), ReadByKey(), id="behind what was taken, but different"),
        pytest.param(foreign(ts=49, lsn=99), row((5, 3)), ReadByKey(), id="an earlier second"),
        pytest.param(ours((5, 9), deleted=True), row((5, 3)), Apply(Stamp(5, 9)), id="a delete of ours"),
        pytest.param(foreign(), tombstone((5, 3)), Apply(Stamp(5, 4)), id="a new life after the tombstone"),
        pytest.param(foreign(), row((4, 3)), ReadByKey(), id="foreign, over a row of an earlier epoch"),
        pytest.param(ours((4, 2), Origin.POSTGRES), row((4, 3)), ReadByKey(), id="an old echo of an earlier epoch"),
        pytest.param(ours((5, 1)), row((4, 3)), Apply(Stamp(5, 1)), id="ours of this epoch, over an earlier one"),
        pytest.param(foreign(), row((5, 3), None), ReadByKey(), id="a row that never took anything"),
    ],
)
def test_while_cosmos_is_primary(change: Change, held: Held, expected: Decision) -> None:
    assert judge(change, held) == expected


def test_an_equal_state_is_taken_without_writing_its_content() -> None:
    assert judge(ours((4, 3), Origin.POSTGRES), row((4, 3), None), same=True) == Take()


def test_an_equal_state_seen_earlier_does_not_take_the_position_back() -> None:
    earlier = ours((5, 3), ts=50, lsn=4)
    assert judge(earlier, row((5, 3)), same=True) == ReadByKey()
    assert judge(earlier, row((5, 3)), same=True, confirmed=True) == Take()


def test_an_equal_stamp_with_other_content_is_not_the_same_state() -> None:
    assert judge(ours((5, 3)), row((5, 3)), same=False) == Apply(Stamp(5, 4))


def test_a_change_behind_is_read_even_if_its_content_is_equal() -> None:
    """A content may be written twice while the clock steps back: what was taken must be what is there."""
    assert judge(foreign(ts=50, lsn=4), row((5, 3)), same=True) == ReadByKey()


@pytest.mark.parametrize("found", [foreign(ts=99, lsn=11, etag="other"), foreign(ts=100, lsn=9, etag="other")])
def test_a_point_read_is_behind_the_change_that_asked_for_it(found: Change) -> None:
    asked = foreign(ts=100, lsn=10)
    assert is_behind(found, asked, NOTHING)
    assert not is_behind(foreign(ts=100, lsn=11, etag="other"), asked, NOTHING)
    assert not is_behind(foreign(ts=100, lsn=9), asked, NOTHING), "the very state"


def test_a_point_read_under_the_lock_is_applied_even_in_the_second_of_another_one() -> None:
    held = row((5, 3), (100, AFTER_ALL))
    assert judge(foreign(ts=100, lsn=None), held, confirmed=True) == Apply(Stamp(5, 4))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(ours((5, 9), Origin.POSTGRES), Ignore(), id="an echo of the relay"),
        pytest.param(ours((4, 9)), ReadByKey(), id="ours of an earlier epoch, perhaps late"),
        pytest.param(foreign(), ReadByKey(), id="a foreign one, perhaps gone already"),
    ],
)
def test_while_postgres_is_primary(change: Change, expected: Decision) -> None:
    assert judge(change, row((5, 3)), POSTGRES) == expected


def test_what_is_still_there_while_postgres_is_primary_is_quarantined() -> None:
    assert judge(ours((4, 9)), row((5, 3)), POSTGRES, confirmed=True) == Quarantine(LATE_WRITE)
    assert judge(foreign(), NOTHING, POSTGRES, confirmed=True) == Quarantine(ROGUE_WRITE)


@pytest.mark.parametrize("phase", [COSMOS, POSTGRES])
def test_our_own_documents_are_nobodys_state(phase: PhaseRow) -> None:
    watermark = feed(internal_document("watermark", 5, {"id": "crossfeed-watermark-5-0"}))
    assert judge(watermark, NOTHING, phase) == Ignore()


stamps = st.tuples(st.integers(1, 5), st.integers(1, 9))
positions = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    change=st.one_of(
        st.builds(lambda at: foreign(ts=at[0], lsn=at[1]), positions),
        st.builds(
            lambda stamp, at, deleted: ours(stamp, deleted=deleted, ts=at[0], lsn=at[1]),
            stamps,
            positions,
            st.booleans(),
        ),
    ),
    held=st.one_of(st.builds(row, stamps, st.none() | positions), st.builds(tombstone, stamps, st.none() | positions)),
    phase=st.sampled_from([COSMOS, POSTGRES]),
    same=st.booleans(),
    confirmed=st.booleans(),
)
def test_whatever_is_applied_has_a_newer_stamp_and_only_the_primarys_writes_are(
    change: Change, held: Held, phase: PhaseRow, *, same: bool, confirmed: bool
) -> None:
    decision = judge(change, held, phase, same=same, confirmed=confirmed)
    if isinstance(decision, Apply):
        assert phase.primary is Origin.COSMOS
        assert held.stamp is not None
        assert decision.stamp > held.stamp
    if confirmed:
        assert decision != ReadByKey(), "one point read must be enough"
