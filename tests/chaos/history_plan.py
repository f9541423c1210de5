"""What is to happen in a history, drawn from one seed: the walk, how each step goes wrong, and what befalls whom."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from core.phases import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

OVER_AND_BACK = (0, 1, 2, 3, 2, 1, 0)
BRIEF = ((0, 1, 2), (2, 3, 2), (2, 1, 0))
"""Walks that together make every step, each way."""

Meets = Literal["cut", "timeout", "waits"]
MEETS: tuple[Meets, ...] = ("cut", "timeout", "waits")
"""What a client meets whose request is held back."""


class Mishap(StrEnum):
    """What befalls the process that makes a step."""

    KILLED = "killed"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"
    CANCELLED = "cancelled by another"
    TIMED_OUT = "timed out"
    OUT_OF_BUDGET = "out of its budget"
    TWICE = "made twice at once"
    ASLEEP = "asleep while another takes over"


class Moment(StrEnum):
    """From when on a mishap's delay counts: steps take longer on a busy machine."""

    BEGUN = "begun"
    DRAINING = "draining"
    OPENED = "opened"


class Cure(StrEnum):
    """What the operator does about a switch that was left half-way."""

    RESUME = "resume"
    CANCEL = "cancel"


class Kind(StrEnum):
    """What befalls everybody else."""

    KILLED = "killed"
    ASLEEP = "asleep"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Try:
    """A step that goes wrong, `after_s` seconds from a moment of it; an operator cures it by `cure`."""

    mishap: Mishap
    moment: Moment
    after_s: float
    asleep_s: float
    cure: Cure


@dataclass(frozen=True, slots=True)
class Leg:
    """One step of the walk: what goes wrong before it goes well, and the pause after it.

    Until writers are drained, some of their requests are kept back for `held_s`, and this is what their client meets;
    0: none are.
    """

    to: Phase
    tries: tuple[Try, ...]
    held_s: float
    meets: Meets
    pause_s: float


@dataclass(frozen=True, slots=True)
class Trouble:
    """What happens `after_s` seconds after the trouble before it began, for `seconds`, to whom the `dice` say."""

    kind: Kind
    roles: tuple[str, ...]
    after_s: float
    seconds: float
    dice: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A history. Its troubles begin again after the last, as long as the walk goes on."""

    seed: int
    start: Phase
    legs: tuple[Leg, ...]
    troubles: tuple[Trouble, ...]


def draw(seed: int, walk: Sequence[int] | None = None, *, lease_s: float) -> Plan:
    """Return the plan of a seed.

    Args:
        seed: any number.
        walk: the numbers of the phases; None: from 0 to 3 and back to 0, with detours.
        lease_s: how long leases are, in seconds; who sleeps, mostly sleeps longer.

    """
    rng = random.Random(seed)
    is_brief = walk is not None
    start, *steps = walk or _with_detours(rng)
    likely, most, longest_s = (0.4, 1, 0.4) if is_brief else (0.7, 2, 1.5)
    legs = tuple(
        Leg(
            Phase(to),
            tuple(_try(rng, lease_s) for _ in range(rng.randint(1, most) if rng.random() < likely else 0)),
            rng.choice([float(is_brief), rng.uniform(0.5, 3.0), rng.uniform(3.0, 8.0)]),
            rng.choice(MEETS),
            rng.uniform(0.1, longest_s),
        )
        for to in steps
    )
    return Plan(seed, Phase(start), legs, tuple(_trouble(rng, lease_s, longest_s + 0.8) for _ in range(40)))


def _with_detours(rng: random.Random) -> list[int]:
    walk: list[int] = []
    for phase in OVER_AND_BACK:
        if walk and rng.random() < 0.2:
            walk += [phase, walk[-1]]
        walk.append(phase)
    return walk


def _try(rng: random.Random, lease_s: float) -> Try:
    return Try(
        rng.choice(list(Mishap)),
        rng.choice([Moment.BEGUN, Moment.DRAINING, Moment.DRAINING, Moment.OPENED]),
        rng.choice([0.0, rng.uniform(0.0, 0.2), rng.uniform(0.0, 1.5)]),
        lease_s * rng.uniform(0.2, 1.6),
        rng.choice(list(Cure)),
    )


def _trouble(rng: random.Random, lease_s: float, gap_s: float) -> Trouble:
    kind = rng.choice(list(Kind))
    roles = rng.choice([("relay",), ("mirror",), ("relay", "mirror"), ("client",)])
    return Trouble(kind, roles, gap_s * rng.uniform(0.4, 1.4), lease_s * rng.uniform(0.2, 1.6), rng.random())
