"""Names a table below the root of an aggregate, and pairs it with the items that it holds."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel

from core.errors import MappingError
from core.projection import Projection

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


def child_projection(
    owner: str, model: type[BaseModel], identity_columns: tuple[str, ...], child: ChildTable
) -> Projection:
    """Return the projection of a child table's items.

    Args:
        owner: the mapping that errors name.
        model: of the aggregate.
        identity_columns: of the aggregate's table.
        child: the table.

    Raises:
        MappingError: it does not fit; the message names the mapping, the place and the cure.

    """
    table = child.table.fullname
    if child.field not in model.model_fields:
        _fail(owner, f"the model has no field {child.field!r} for the child table {table}")
    annotation = model.model_fields[child.field].annotation
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is not list or not (
        isinstance(arguments[0], type) and issubclass(arguments[0], BaseModel)
    ):
        _fail(owner, f"{child.field!r} must be a list of a pydantic model to live in {table}")
    missing = [name for name in (*child.parent, child.position) if name not in child.table.columns]
    if missing:
        _fail(owner, f"the child table {table} has no column {', '.join(missing)}")
    if len(child.parent) != len(identity_columns):
        _fail(owner, f"{table}: parent= must name a column for each of {identity_columns}")
    return Projection(arguments[0], child.table)


def _fail(owner: str, problem: str) -> typing.NoReturn:
    msg = f"mapping {owner}: {problem}"
    raise MappingError(msg)
