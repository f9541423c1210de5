"""The judge of histories finds what was lost, and nothing wrong with what was not."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.stamp import Stamp
from tests.chaos.history_checker import judge
from tests.chaos.history_log import ABSENT, History, Intent, Kind, Log, Outcome, Read, Seen, Write, read_logs

if TYPE_CHECKING:
    from pathlib import Path

NAME = "Account/a1/a1"


@dataclass
class Store:
    """One document of a store that does everything right, and the log of those who use it."""

    history: History = field(default_factory=History)
    seen: Seen = ABSENT
    newest: Stamp = field(default_factory=lambda: Stamp(1, 0))
    now: int = 0

    def write(self, kind: Kind, outcome: Outcome = Outcome.ACKNOWLEDGED, *, applied: bool = True) -> Write:
        self.now += 100
        token, base = f"t{self.now}", self.seen
        stamp = Stamp(self.newest.epoch, self.newest.version + 1)
        if applied:
            self.newest = stamp
            self.seen = ABSENT if kind is Kind.DELETE else Seen(stamp, token)
        told = stamp if outcome is Outcome.ACKNOWLEDGED and kind is not Kind.DELETE else None
        span = self.now - 60, None if outcome is Outcome.UNKNOWN else self.now + 60
        write = Write(f"w{self.now % 3}", NAME, kind, token, base, *span, outcome, told)
        self.history.writes.append(write)
        return write

    def read(self, seen: Seen | None = None, session: str = "r") -> None:
        self.now += 100
        self.history.reads.append(Read(session, NAME, self.now - 10, self.now + 10, seen or self.seen))

    def stamp_anew(self) -> None:
        """Begin an epoch, and write the state again as it is, as healing does."""
        self.newest = Stamp(self.newest.epoch + 1, self.newest.version + 1)
        if self.seen.stamp is not None:
            self.seen = Seen(self.newest, self.seen.token)

    def violations(self, final: Seen | None = None) -> list[str]:
        return judge(self.history, {NAME: final or self.seen}).violations


def filled(rng: random.Random, steps: int) -> Store:
    """A store after so many things of all kinds have happened to it."""
    store = Store()
    for _ in range(steps):
        what = rng.random()
        kind = Kind.ADD if store.seen is ABSENT else Kind.DELETE if rng.random() < 0.3 else Kind.UPDATE
        if what < 0.4:
            store.write(kind)
        elif what < 0.55:
            store.write(kind, Outcome.UNKNOWN, applied=rng.random() < 0.5)
        elif what < 0.65:
            store.write(kind, Outcome.REFUSED, applied=False)
        elif what < 0.7:
            store.stamp_anew()
        else:
            store.read(session=rng.choice("rs"))
    return store


@given(seed=st.integers(0, 2**32), steps=st.integers(0, 60))
def test_nothing_is_wrong_with_a_history_in_which_nothing_went_wrong(seed: int, steps: int) -> None:
    store = filled(random.Random(seed), steps)
    verdict = judge(store.history, {NAME: store.seen})
    assert verdict.violations == []
    assert verdict.phantoms == 0


@given(seed=st.integers(0, 2**32), steps=st.integers(0, 40))
def test_a_lost_write_is_found_whatever_was_before_it(seed: int, steps: int) -> None:
    store = filled(random.Random(seed), steps)
    before = store.seen
    store.write(Kind.ADD if before is ABSENT else Kind.UPDATE)
    assert store.violations(before), "the store is as if the last write had never been"


@given(seed=st.integers(0, 2**32), steps=st.integers(0, 40))
def test_a_lost_delete_is_found_whatever_was_before_it(seed: int, steps: int) -> None:
    store = filled(random.Random(seed), steps)
    if store.seen is ABSENT:
        store.write(Kind.ADD)
    before = store.seen
    store.write(Kind.DELETE)
    assert store.violations(before), "what was deleted is back"
    assert before.stamp is not None
    again = Seen(Stamp(before.stamp.epoch + 1, before.stamp.version + 5), before.token)
    assert store.violations(again), "what was deleted is back with a newer stamp"


@given(seed=st.integers(0, 2**32), steps=st.integers(0, 40))
def test_two_writes_upon_one_state_are_found_also_if_more_were_written_upon_the_second(seed: int, steps: int) -> None:
    store = filled(random.Random(seed), steps)
    if store.seen is ABSENT:
        store.write(Kind.ADD)
    seen, newest = store.seen, store.newest
    store.write(Kind.UPDATE)
    store.seen, store.newest = seen, newest  # the other primary knows nothing of it
    store.write(Kind.UPDATE)
    store.write(Kind.UPDATE)
    assert any("the same version" in found for found in store.violations())


def three() -> tuple[Store, list[Seen]]:
    """A store with an add and two updates, and its three states."""
    store, states = Store(), []
    for kind in (Kind.ADD, Kind.UPDATE, Kind.UPDATE):
        store.write(kind)
        states.append(store.seen)
    return store, states


def test_a_reader_that_goes_back_is_found() -> None:
    store, states = three()
    store.read(states[0])
    assert ["after version 3" in found for found in store.violations()] == [True]


def test_what_one_process_has_read_it_reads_no_older_though_nobody_else_knows_of_it_yet() -> None:
    store, states = three()
    last = store.history.writes[-1]
    store.history.writes[-1] = replace(last, ended=10**6)  # its writer learns of it much later
    store.history.reads.extend(
        [
            Read("r", NAME, 400, 410, states[2]),
            Read("s", NAME, 420, 430, states[1]),
            Read("r", NAME, 440, 450, states[1]),
        ]
    )
    [found] = store.violations()
    assert "by r" in found


def test_a_document_that_is_gone_though_nobody_deleted_it_is_found() -> None:
    store, _ = three()
    store.read(ABSENT)
    assert len(store.violations(ABSENT)) == 2
    store.write(Kind.DELETE, Outcome.UNKNOWN, applied=False)
    store.read(ABSENT)
    assert len(store.violations(ABSENT)) == 1, "the delete without an answer explains all but the first"


@pytest.mark.parametrize("kind", [Kind.UPDATE, Kind.DELETE])
def test_an_acknowledged_write_that_was_overwritten_unseen_is_found(kind: Kind) -> None:
    store, states = three()
    store.seen = states[1]
    store.write(kind)
    found = store.violations()
    assert any("overwritten unseen" in each for each in found) or any("same version" in each for each in found)


def test_an_add_over_what_is_there_is_found() -> None:
    store, _ = three()
    store.write(Kind.ADD)
    assert any("added over" in each for each in store.violations())


def test_what_was_refused_must_not_be_seen_by_anybody() -> None:
    store, _ = three()
    store.write(Kind.UPDATE, Outcome.REFUSED)
    assert ["it was refused" in each for each in store.violations()] == [True]


def test_a_write_that_nobody_made_is_found() -> None:
    store, _ = three()
    assert store.violations(Seen(Stamp(1, 4), "who"))


def test_a_version_below_that_of_an_earlier_write_is_found() -> None:
    store, _ = three()
    first, second, third = store.history.writes
    store.history.writes[:] = [first, replace(second, begun=900, ended=950), third]
    assert any("written later, with a lower version" in each for each in store.violations())


def test_an_epoch_that_goes_back_is_found() -> None:
    store, _ = three()
    assert store.seen.stamp is not None
    store.history.writes[0] = replace(store.history.writes[0], stamp=Stamp(2, 1))
    assert any("earlier epoch" in each for each in store.violations())


def test_a_write_of_unknown_outcome_that_came_to_nothing_may_have_been_seen_where_it_landed() -> None:
    store, states = three()
    store.write(Kind.UPDATE, Outcome.UNKNOWN)
    late = store.seen
    store.seen, store.newest = states[2], Stamp(1, 3)  # it reached the store that had just been left
    store.write(Kind.UPDATE)
    store.read(late)
    verdict = judge(store.history, {NAME: store.seen})
    assert verdict.violations == []
    assert verdict.phantoms == 1
    assert store.violations(late), "but it is not what remains"


def test_what_was_lost_is_found_through_the_logs_of_processes_that_were_killed(tmp_path: Path) -> None:
    one, other = Log(tmp_path / "one", "one"), Log(tmp_path / "other", "other")
    one.attempt(1, 10, [Intent(NAME, Kind.ADD, "one-1-1", ABSENT)])  # a switch refused it, so it was repeated
    one.attempt(1, 20, [Intent(NAME, Kind.ADD, "one-1-2", ABSENT)])
    one.ended(1, Outcome.ACKNOWLEDGED, [Stamp(1, 1)])
    base = Seen(Stamp(1, 1), "one-1-2")
    other.read(NAME, 30, base)
    other.attempt(1, 30, [Intent(NAME, Kind.UPDATE, "other-1-1", base)])  # it was killed before it had an answer
    with (tmp_path / "other").open("ab") as file:
        file.write(b'["other", "rea')  # and in the middle of a line
    history = read_logs([tmp_path / "one", tmp_path / "other"])
    assert [write.outcome for write in history.writes] == [Outcome.REFUSED, Outcome.ACKNOWLEDGED, Outcome.UNKNOWN]
    for seen in (base, Seen(Stamp(1, 2), "other-1-1"), Seen(Stamp(2, 2), "one-1-2")):
        assert judge(history, {NAME: seen}).violations == []
    for seen in (ABSENT, Seen(Stamp(1, 1), "one-1-1"), Seen(Stamp(1, 1), "other-1-1")):
        assert judge(history, {NAME: seen}).violations != []
