"""A Postgres snapshot as a value: which transactions had ended when it was taken."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What `pg_current_snapshot()` said: transactions below `xmax` had ended, but for those `in_progress`.

    A transaction is not visible in it exactly if its id is at or above `xmax`, or in progress. Ids are top-level ones
    (savepoints have none) of 64 bits, so they never wrap around.
    """

    xmin: int
    xmax: int
    in_progress: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Read Postgres' spelling, `xmin:xmax:xid,xid`."""
        xmin, xmax, in_progress = text.split(":")
        return cls(int(xmin), int(xmax), tuple(map(int, in_progress.split(","))) if in_progress else ())

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.in_progress))}"
