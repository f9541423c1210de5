"""Says which requests a fault hits, and how often."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from core.local.cosmos.faults.actions import Action, Frozen


class Operation(StrEnum):
    """What a request does."""

    CREATE = "create"
    UPSERT = "upsert"
    REPLACE = "replace"
    PATCH = "patch"
    DELETE = "delete"
    BATCH = "batch"
    DELETE_PARTITION = "delete_partition"
    READ = "read"
    QUERY = "query"
    QUERY_PLAN = "query_plan"
    FEED = "feed"
    RANGES = "ranges"
    CREATE_CONTAINER = "create_container"
    READ_CONTAINER = "read_container"
    REPLACE_CONTAINER = "replace_container"
    DELETE_CONTAINER = "delete_container"
    LIST_CONTAINERS = "list_containers"
    CREATE_DATABASE = "create_database"
    READ_DATABASE = "read_database"
    DELETE_DATABASE = "delete_database"
    LIST_DATABASES = "list_databases"
    OFFERS = "offers"
    ACCOUNT = "account"
    OTHER = "other"


WRITES = frozenset(
    {
        Operation.CREATE,
        Operation.UPSERT,
        Operation.REPLACE,
        Operation.PATCH,
        Operation.DELETE,
        Operation.BATCH,
        Operation.DELETE_PARTITION,
    }
)
READS = frozenset({Operation.READ, Operation.QUERY, Operation.FEED})

Scalar = str | bool | int | float | None


class Match(Frozen):
    """The requests that all of what is given here holds for; nothing given means every request.

    `partition_key` also matches the longer hierarchical keys that begin with it. `range_id` matches what touches that
    partition key range or, once it was split, one that came from it. `id` is a document's, of a batch any one.
    `header` is the name of a header that the request must carry.
    """

    operations: frozenset[Operation] | None = None
    database: str | None = None
    container: str | None = None
    range_id: str | None = None
    partition_key: tuple[Scalar, ...] | None = None
    id: str | None = None
    header: str | None = None


class Every(Frozen):
    """A burst: the `first` requests `of` so many in a row."""

    first: Annotated[int, Field(ge=1)]
    of: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.first > self.of:
            raise ValueError("first must not be above of")
        return self


class Rule(Frozen):
    """A fault to `do` to the requests `on` which it is aimed.

    Of those requests it leaves out the first `skip`, of the rest only bursts (`every`) are hit, each with
    `probability`, and in all `times` (None: for ever). They are counted over all requests, or, with `per` "subject",
    apart for each subject: operation, path, partition key, range, ids and query text. A `name` is given if there is
    none.
    """

    do: Action
    on: Match = Match()
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_.-]+$")] | None = None
    skip: Annotated[int, Field(ge=0)] = 0
    every: Every | None = None
    times: Annotated[int, Field(ge=1)] | None = None
    probability: Annotated[float, Field(gt=0, le=1)] = 1.0
    per: Literal["rule", "subject"] = "rule"

    def due(self, seen: int, hit: int, chance: float) -> bool:
        """Say whether the request after `seen` others, `hit` of them hit, is hit; `chance` is drawn from [0, 1)."""
        number = seen - self.skip
        if number < 0 or (self.times is not None and hit >= self.times):
            return False
        if self.every is not None and number % self.every.of >= self.every.first:
            return False
        return chance < self.probability
