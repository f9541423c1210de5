"""Compares what became of the SDK's tests with the committed list of those that do not pass."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.sdk.running import FileRun, Outcome, State

if TYPE_CHECKING:
    from collections.abc import Sequence

LIST = Path(__file__).with_name("not_passing.toml")
DEMANDED_SHARE = 0.95


@dataclass(frozen=True)
class Listed:
    """What the committed list says, by `file::test`: why tests fail, skip themselves, or now fail and now pass."""

    failing: dict[str, str]
    skipping: dict[str, str]
    varying: dict[str, str]

    @classmethod
    def load(cls, path: Path = LIST) -> Listed:
        """Read the list.

        Raises:
            ValueError: a test is listed twice, or has no reason.

        """
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return cls(*(_reasons(content.get(kind, [])) for kind in ("failing", "skipping", "varying")))


def _reasons(entries: list[dict[str, str | list[str]]]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for entry in entries:
        for test in entry["tests"]:
            name = f"{entry['file']}::{test}"
            if name in reasons or not entry["reason"]:
                raise ValueError(f"{name} is listed twice or without a reason")
            reasons[name] = str(entry["reason"])
    return reasons


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a run; `passed` of `counted` tests passed in the files that the share is demanded of."""

    problems: tuple[str, ...]
    passed: int
    counted: int

    @property
    def share(self) -> float:
        """The share that passed of those tests that did not skip themselves, 0 to 1."""
        return self.passed / self.counted if self.counted else 1.0


def judge(runs: Sequence[FileRun], listed: Listed, named: Sequence[str]) -> Verdict:
    """Compare runs with the list; the files in `named` must reach the demanded share."""
    problems: list[str] = []
    for run in runs:
        problems += _differences(run, listed)
    within = [run for run in runs if run.file in named]
    passed = sum(run.count(State.PASSED) for run in within)
    verdict = Verdict(tuple(problems), passed, passed + sum(run.count(State.FAILED) for run in within))
    if verdict.share >= DEMANDED_SHARE:
        return verdict
    low = f"only {verdict.share:.1%} of the tests pass that must, {DEMANDED_SHARE:.0%} are demanded"
    return Verdict((*problems, low), verdict.passed, verdict.counted)


def _differences(run: FileRun, listed: Listed) -> list[str]:
    found = {f"{run.file}::{outcome.test}": outcome for outcome in run.outcomes}
    problems: list[str] = []
    for state, reasons in ((State.FAILED, listed.failing), (State.SKIPPED, listed.skipping)):
        for name, outcome in found.items():
            if outcome.state is state and name not in reasons and name not in listed.varying:
                problems.append(f"{state.value} and not listed: {name}: {_first_line(outcome)}")
        for name in reasons:
            if name.startswith(f"{run.file}::") and (name not in found or found[name].state is not state):
                what = found[name].state.value if name in found else "not there"
                problems.append(f"listed as {state.value}, but {what}: {name}")
    gone = [name for name in listed.varying if name.startswith(f"{run.file}::") and name not in found]
    return problems + [f"listed as varying, but not there: {name}" for name in gone]


def _first_line(outcome: Outcome) -> str:
    return outcome.reason.partition("\n")[0]
