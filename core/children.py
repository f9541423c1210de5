"""Names a table below the root of an aggregate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlalchemy as sa


@dataclass(frozen=True)
class ChildTable:
    """A table whose rows are items of a list property of an aggregate; a write to it is a write to its root.

    Args:
        field: the model's field, a `list` of a pydantic model.
        table: the child's table; columns named like the item's fields are filled from it.
        parent: the child's columns that hold the root's key columns, in the order of the mapping's `key_columns`.
        position: the integer column that holds the place in the list, from 0.

    """

    field: str
    table: sa.Table
    parent: tuple[str, ...]
    position: str
