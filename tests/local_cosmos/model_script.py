"""Draws scripts of operations on one container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from hypothesis import strategies as st

from tests.local_cosmos.model_world import Shape, Write

KEYS = 5
IDS = 4
SHAPES = (
    Shape(("/pk",), "Hash", 2, (("p",), ("q",), (1,), ("1",), (True,)), unique=False, throughput=12_000),
    Shape(("/pk",), "Hash", 2, (("p",), (None,), ({},), (1.5,), ("",)), unique=True, throughput=400),
    Shape(("/pk",), "Hash", 1, (("p",), ("q" * 120,), (-3,), (False,), ({},)), unique=False, throughput=18_000),
    Shape(("/a", "/b"), "MultiHash", 2, (("x", "1"), ("x", 1), ("y", "1"), ("y", None), ("x", {})), unique=False,
          throughput=12_000),
    Shape(("/k/pk",), "Hash", 2, (("p",), ("q",), (0,), ({},), ("é🐙",)), unique=True, throughput=30_000),
)  # fmt: skip
# Without what the SDK (4.17.1) gets wrong: its change feed takes a key that is false (False, 0, "") for none, and by V1
# it hashes an integer below 0 or above 32 bits otherwise than the same number as a float.
SDK_SHAPES = (
    Shape(("/pk",), "Hash", 2, (("p",), ("q",), (1,), ("1",), (True,)), unique=True, throughput=12_000),
    Shape(("/pk",), "Hash", 1, (("p",), ("q",), (3,), (True,), ("1",)), unique=False, throughput=18_000),
    Shape(("/a", "/b"), "MultiHash", 2, (("x", "1"), ("x", 1), ("y", "1"), ("y", "z"), ("z", 2)), unique=False,
          throughput=12_000),
)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Writes of one logical partition, all or nothing."""

    key: int
    parts: tuple[Write, ...]


@dataclass(frozen=True)
class Drop:
    """Delete all documents of a partition key."""

    key: int


@dataclass(frozen=True)
class Tick:
    """Move the clock by `seconds`."""

    seconds: int


@dataclass(frozen=True)
class Retention:
    """Change the time to live of the container."""

    default_ttl: int | None


@dataclass(frozen=True)
class Split:
    """Split the `index`-th partition, at the `key`-th partition key if there is one and it lies within."""

    index: int
    key: int | None


@dataclass(frozen=True)
class Follow:
    """Start a reader of the feed."""

    what: Literal["whole", "range", "slice", "key", "prefix"]
    key: int
    start: Literal["beginning", "now", "time"]
    history: bool


@dataclass(frozen=True)
class Poll:
    """Let a reader read at most `pages` pages of `size`."""

    reader: int
    size: int
    pages: int


@dataclass(frozen=True)
class Keep:
    """Save the continuation of a reader."""

    reader: int


@dataclass(frozen=True)
class Resume:
    """Start a reader at a continuation that was saved at any time before."""

    saved: int


@dataclass(frozen=True)
class Ask:
    """Query in pages of `size`, and write after each page."""

    what: Literal["all", "key", "ordered", "prefix", "count"]
    key: int
    size: int
    meanwhile: tuple[Write | Split, ...]


@dataclass(frozen=True)
class Read:
    """Read a document with the newest session token, and with one from the future."""

    key: int
    id: int


@dataclass(frozen=True)
class Rest:
    """Do nothing: what a step of a failing script that plays no part shrinks to."""


Step: TypeAlias = Rest | Write | Batch | Drop | Tick | Retention | Split | Follow | Poll | Keep | Resume | Ask | Read

_keys = st.integers(0, KEYS - 1)
_ids = st.integers(0, IDS - 1)
_few = st.integers(0, 7)
_kinds = st.sampled_from(["upsert", "upsert", "upsert", "create", "replace", "patch", "delete"])
_matches = st.sampled_from(["none", "none", "none", "none", "right", "right", "wrong"])
_batched = st.sampled_from(["upsert", "upsert", "upsert", "upsert", "create", "replace", "patch", "delete"])
_rarely = st.sampled_from(["none", "none", "none", "none", "none", "none", "right", "wrong"])
_writes = st.builds(Write, _kinds, _keys, _ids, _matches, _few, st.sampled_from([None, None, -1, 2, 5]))
_batches = st.integers(0, KEYS - 1).flatmap(
    lambda key: st.builds(
        Batch,
        st.just(key),
        st.lists(
            st.builds(Write, _batched, st.just(key), _ids, _rarely, _few),
            min_size=1,
            max_size=6,
        ).map(tuple),
    )
)
_splits = st.builds(Split, _few, st.none() | _keys)
_follows = st.builds(
    Follow,
    st.sampled_from(["whole", "range", "slice", "key", "prefix"]),
    _keys,
    st.sampled_from(["beginning", "beginning", "now", "time"]),
    st.booleans(),
)
_polls = st.builds(Poll, _few, st.integers(1, 4), st.integers(1, 6))
_asks = st.builds(
    Ask,
    st.sampled_from(["all", "all", "all", "key", "ordered", "prefix", "count"]),
    _keys,
    st.integers(1, 2),
    st.lists(_splits | _writes, max_size=4).map(tuple),
)
_weighted: list[tuple[int, st.SearchStrategy[Step]]] = [
    (1, st.builds(Rest)),  # what shrinks comes first
    (22, _writes),
    (8, _batches),
    (3, _splits),
    (3, _follows),
    (6, _polls),
    (1, st.builds(Keep, _few)),
    (2, st.builds(Resume, _few)),
    (4, _asks),
    (1, st.builds(Read, _keys, _ids)),
    (3, st.builds(Tick, st.sampled_from([1, 2, 4, -1]))),
    (1, st.builds(Drop, _keys)),
    (2, st.builds(Retention, st.sampled_from([None, -1, 3]))),
]
steps: st.SearchStrategy[Step] = st.sampled_from([one for weight, one in _weighted for _ in range(weight)]).flatmap(
    lambda one: one
)
