"""A long pass rests as long as its budget says, and never saves up for a burst."""

from __future__ import annotations

import pytest

from core.throttle import Throttle


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_was_charged_is_rested_off_at_the_budgets_speed() -> None:
    clock = Clock()
    throttle = Throttle(200.0, 0.01, clock)
    throttle.spend(100.0)
    throttle.charged({"x-ms-request-charge": "20.0"}, 1)
    assert throttle.rest_s() == pytest.approx(0.61)
    clock.now += 0.5
    assert throttle.rest_s() == pytest.approx(0.11)
    clock.now += 3600
    assert throttle.rest_s() == pytest.approx(0.01)
    throttle.spend(200.0)  # an hour of doing nothing has saved nothing
    assert throttle.rest_s() == pytest.approx(1.01)


def test_without_a_budget_there_is_only_the_pause() -> None:
    throttle = Throttle(None, 0.25, Clock())
    throttle.spend(1e9)
    assert throttle.rest_s() == 0.25
