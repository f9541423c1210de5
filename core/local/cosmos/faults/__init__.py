"""Faults on demand: what a network and a distributed database do to their clients, at a call, and replayable."""

from core.local.cosmos.faults.actions import (
    Action,
    Budget,
    ByTime,
    ByVersions,
    Constant,
    Cut,
    Delay,
    Down,
    Hold,
    Lag,
    LogNormal,
    Refuse,
    Uniform,
)
from core.local.cosmos.faults.held import Applied, Dropped, HeldRequest, Waiting
from core.local.cosmos.faults.registry import Faults, Injection
from core.local.cosmos.faults.rules import READS, WRITES, Every, Match, Operation, Rule

__all__ = [
    "READS",
    "WRITES",
    "Action",
    "Applied",
    "Budget",
    "ByTime",
    "ByVersions",
    "Constant",
    "Cut",
    "Delay",
    "Down",
    "Dropped",
    "Every",
    "Faults",
    "HeldRequest",
    "Hold",
    "Injection",
    "Lag",
    "LogNormal",
    "Match",
    "Operation",
    "Refuse",
    "Rule",
    "Uniform",
    "Waiting",
]
