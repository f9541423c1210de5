"""The protocol of the switch keeps its promises in every interleaving, and not without any one of its safeguards."""

from __future__ import annotations

import pytest

from tests.model.checker import explore
from tests.model.protocol import Protocol, Rules
from tests.model.world import beginning

THERE, THERE_AND_BACK = ("to Postgres",), ("to Postgres", "to Cosmos DB")
TWO_WRITERS = (("one",), ("other",))


@pytest.mark.parametrize(
    ("wants", "steps", "crashes"),
    [
        (TWO_WRITERS, THERE_AND_BACK, 0),
        ((("one", "two"),), THERE_AND_BACK, 1),
        ((("delete", "create anew"),), THERE_AND_BACK, 0),
    ],
    ids=["there_and_back", "a_crash", "a_delete"],
)
def test_every_interleaving_keeps_every_promise(
    wants: tuple[tuple[str, ...], ...], steps: tuple[str, ...], crashes: int
) -> None:
    states, violation = explore(Protocol(), beginning(wants, steps, crashes))
    assert violation is None, violation
    assert states > 4_000


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("wants", "steps", "crashes"),
    [
        (TWO_WRITERS, THERE_AND_BACK, 2),
        ((("delete", "create anew"), ("other",)), THERE_AND_BACK, 1),
        ((("one", "two"), ("other",)), THERE_AND_BACK, 1),
        (TWO_WRITERS, (*THERE_AND_BACK, *THERE), 0),
    ],
    ids=["two_crashes", "a_delete_and_a_crash", "three_writes_and_a_crash", "three_switches"],
)
def test_every_interleaving_of_more_keeps_every_promise(
    wants: tuple[tuple[str, ...], ...], steps: tuple[str, ...], crashes: int
) -> None:
    states, violation = explore(Protocol(), beginning(wants, steps, crashes), most=5_000_000)
    assert violation is None, violation
    assert states > 50_000


def broken(rules: Rules, wants: tuple[tuple[str, ...], ...] = TWO_WRITERS) -> tuple[str, str]:
    """Return the promise that does not hold without a safeguard, and the last step of the shortest way there."""
    _, violation = explore(Protocol(rules), beginning(wants, THERE_AND_BACK, 0))
    assert violation is not None, "nothing goes wrong without it"
    return violation.promise, violation.trace[-1]


def test_without_the_fence_a_write_behind_the_mark_is_lost() -> None:
    assert broken(Rules(fence=False))[0] == "acknowledged, and not in the primary: one"


def test_a_flip_before_the_barrier_loses_what_has_not_crossed() -> None:
    assert broken(Rules(barrier=False)) == ("acknowledged, and not in the primary: one", "the switch flips")


def test_a_position_that_was_read_before_the_drain_is_no_barrier() -> None:
    assert broken(Rules(position_after_drain=False))[0] == "acknowledged, and not in the primary: one"


def test_a_lease_without_a_deadline_acknowledges_what_lands_too_late() -> None:
    assert broken(Rules(lease_deadline=False))[0] == "acknowledged, and not in the primary: one"


def test_without_tombstones_a_delete_does_not_cross() -> None:
    promise, _ = broken(Rules(tombstone=False), (("delete",), ("other",)))
    assert promise == "deleted in one store, and there in the other"


def test_a_version_without_its_epoch_takes_a_late_write_for_the_newer_state() -> None:
    assert broken(Rules(epoch=False)) == ("the stores are different at the end", "the relay is superseded")


def test_a_mirror_that_does_not_read_the_phase_under_its_lock_overwrites_the_new_primary() -> None:
    promise, last = broken(Rules(lock_then_read=False))
    assert promise == "a reader of the primary sees the document go backwards"
    assert last == "the mirror commits"


def test_a_flip_that_does_not_look_at_the_log_again_strands_what_the_mirror_healed_meanwhile() -> None:
    assert broken(Rules(look_again_in_flip=False)) == ("the stores are different at the end", "the switch flips")
