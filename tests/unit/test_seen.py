"""What a process has seen decides which entries it believes, as far as its memory reaches and beyond."""

from __future__ import annotations

import pytest

from core.cache.seen import MARGIN_S, Mark, Nothing, Seen
from core.identity import Identity
from core.stamp import Stamp

KEEP_S = 100.0
A, B = (Identity.of("Account", [id_], id_) for id_ in "ab")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def seen(clock: Clock) -> Seen:
    return Seen(2, KEEP_S, clock)


def test_what_was_never_seen_may_be_anything(seen: Seen, clock: Clock) -> None:
    assert seen.trusts("a", Stamp(1, 1), clock(), 50)
    assert seen.trusts("a", Nothing.ABSENT, clock(), 50)


def test_no_older_stamp_is_believed_however_young_the_entry(seen: Seen, clock: Clock) -> None:
    seen.note("a", Stamp(2, 5))
    clock.now += 50
    assert not seen.trusts("a", Stamp(2, 4), clock(), 0)
    assert not seen.trusts("a", Stamp(1, 9), clock(), 0)
    assert seen.trusts("a", Stamp(2, 5), clock(), 60)
    assert seen.trusts("a", Stamp(3, 1), clock(), 60)


@pytest.mark.parametrize(
    ("noted", "entry"),
    [
        (Stamp(1, 1), Nothing.ABSENT),
        (Nothing.ABSENT, Stamp(9, 9)),
        (Nothing.UNKNOWN, Stamp(9, 9)),
        (Nothing.UNKNOWN, Nothing.ABSENT),
        (A, B),
        (A, Nothing.ABSENT),
        (Nothing.ABSENT, A),
    ],
)
def test_where_stamps_do_not_say_an_entry_must_have_been_loaded_since(
    seen: Seen, clock: Clock, noted: Mark, entry: Mark
) -> None:
    seen.note("a", noted)
    clock.now += 10
    assert not seen.trusts("a", entry, clock(), 20)
    assert not seen.trusts("a", entry, clock(), 10 - MARGIN_S)
    assert seen.trusts("a", entry, clock(), 10 - MARGIN_S - 0.1)


def test_the_same_again_is_believed_at_any_age(seen: Seen, clock: Clock) -> None:
    for key, mark in (("a", A), ("b", Nothing.ABSENT)):
        seen.note(key, mark)
        assert seen.trusts(key, mark, clock(), 50)


def test_a_store_that_goes_back_is_believed_and_no_entry_of_before(seen: Seen, clock: Clock) -> None:
    seen.note("a", Stamp(1, 5))
    clock.now += 10
    seen.note("a", Stamp(1, 1), began=clock())
    clock.now += 10
    assert not seen.trusts("a", Stamp(1, 5), clock(), 15)
    assert seen.trusts("a", Stamp(1, 2), clock(), 5)


@pytest.mark.parametrize(
    ("noted", "late"),
    [(Stamp(1, 5), Stamp(1, 4)), (Nothing.ABSENT, Stamp(1, 4)), (Stamp(1, 3), Nothing.ABSENT), (A, B)],
)
def test_of_two_looks_at_the_same_time_neither_lets_an_older_entry_be_believed(
    seen: Seen, clock: Clock, noted: Stamp | Nothing, late: Stamp | Nothing
) -> None:
    began = clock()
    clock.now += 1
    seen.note("a", noted)
    clock.now += 1
    seen.note("a", late, began)
    assert not seen.trusts("a", Stamp(1, 4), clock(), 50)
    assert seen.trusts("a", noted, clock(), 50) is (isinstance(late, Stamp) and isinstance(noted, Stamp))


def test_after_a_write_that_nobody_knows_nothing_of_before_is_believed(seen: Seen, clock: Clock) -> None:
    seen.note("a", Stamp(1, 5))
    clock.now += 10
    seen.distrust()
    clock.now += 10
    assert not seen.trusts("a", Stamp(1, 5), clock(), 10)
    assert not seen.trusts("never seen", Stamp(1, 5), clock(), 10)
    assert seen.trusts("a", Stamp(1, 5), clock(), 5)


def test_a_store_is_behind_only_what_an_entry_has_shown(seen: Seen) -> None:
    seen.note("a", Stamp(1, 5))
    assert not seen.is_behind("a", Stamp(1, 4))  # its own session has seen it
    seen.note("b", Stamp(1, 5), from_entry=True)
    assert seen.is_behind("b", Stamp(1, 4))
    assert seen.is_behind("b", Nothing.ABSENT)
    assert not seen.is_behind("b", Stamp(1, 5))
    assert not seen.is_behind("b", Nothing.UNKNOWN)


def test_what_was_forgotten_takes_the_belief_in_what_was_loaded_before_with_it(seen: Seen, clock: Clock) -> None:
    seen.note("a", Stamp(1, 5))
    for key in "bcdef":
        clock.now += 10
        seen.note(key, Stamp(1, 1))
    assert not seen.trusts("a", Stamp(1, 4), clock(), 49)
    assert not seen.trusts("never seen", Stamp(1, 1), clock(), 49)
    assert seen.trusts("a", Stamp(1, 4), clock(), 5)


def test_what_was_forgotten_after_the_life_of_an_entry_costs_no_belief(seen: Seen, clock: Clock) -> None:
    for key in "abcdef":
        seen.note(key, Stamp(1, 5))
        clock.now += KEEP_S + MARGIN_S + 1
    assert seen.trusts("a", Stamp(1, 4), clock(), KEEP_S)
    assert not seen.trusts("a", Stamp(1, 4), clock(), KEEP_S + 1)
