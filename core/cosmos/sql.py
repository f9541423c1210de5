"""Translates the questions of core.query to parameterised Cosmos SQL, and answers them in Python where SQL cannot."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, assert_never

from pydantic_core import PydanticUndefined, to_jsonable_python

from core.query import Before, Condition, Equals, NotBefore, OneOf, Order, Query, spellings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic.fields import FieldInfo

    from core.discriminator import Discriminator
    from core.entity import Entity
    from core.identity import KeyPart
    from core.instant import Instant
    from core.mapping import EntityMapping

VISIBLE: Final = (
    "(NOT IS_DEFINED(c.crossfeed.deleted) OR c.crossfeed.deleted != true) AND NOT IS_DEFINED(c.crossfeed.kind)"
)
"""Neither a tombstone nor one of Crossfeed's own documents."""

_DAY = timedelta(days=1)
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Statement:
    """A SELECT over one container.

    Args:
        text: the SQL.
        parameters: as the SDK takes them.
        exact: whether it finds precisely what was asked for; if not, it finds more, to be filtered by `holds`.
        partition: the one logical partition that holds all of it, if the question names its key.

    """

    text: str
    parameters: list[dict[str, object]]
    exact: bool
    partition: list[KeyPart] | None


def select(mapping: EntityMapping[Any], rivals: Sequence[str], query: Query, *, ordered: bool) -> Statement:
    """Translate a query to the SELECT of its documents; `ordered` adds the ORDER BY, ties left open.

    Args:
        mapping: of the documents.
        rivals: what means another type in the same container (see Mappings.rivals).
        query: what is asked.
        ordered: whether in the query's order.

    """
    return _statement(mapping, rivals, query, "*", ordered=ordered)


def count(mapping: EntityMapping[Any], rivals: Sequence[str], query: Query) -> Statement:
    """Translate a query to the SELECT of its count, good only if it is `exact`; see `select`."""
    return _statement(mapping, rivals, query, "VALUE COUNT(1)", ordered=False)


def select_before(mapping: EntityMapping[Any], rivals: Sequence[str], query: Query, ts: int) -> Statement:
    """Translate a query to the SELECT of those of its documents that were last written before `ts`; see `select`.

    Args:
        mapping: of the documents.
        rivals: what means another type in the same container (see Mappings.rivals).
        query: what is asked; its order and its limit are left to the caller.
        ts: seconds since 1970, by the clock of Cosmos DB.

    """
    every = select(mapping, rivals, query, ordered=False)
    before: dict[str, object] = {"name": "@before", "value": ts}
    return replace(every, text=f"{every.text} AND c._ts < @before", parameters=[*every.parameters, before])


def order_of(query: Query) -> Order:
    """Return the order of a query, which is that of the ids where it names none."""
    return query.order_by or Order("id")


def holds(entity: Entity, query: Query) -> bool:
    """Whether an entity is one of those that the query asks for."""
    return all(_holds(getattr(entity, condition.field), condition) for condition in query.where)


def _statement(
    mapping: EntityMapping[Any], rivals: Sequence[str], query: Query, what: str, *, ordered: bool
) -> Statement:
    writer = _Writer(mapping)
    conditions = [f"({VISIBLE})", *filter(None, map(writer.condition, query.where))]
    if mapping.discriminator is not None:
        conditions.append(writer.is_of_type(mapping.discriminator, rivals))
    text = f"SELECT {what} FROM c WHERE {' AND '.join(conditions)}"  # noqa: S608 - values are parameters
    if ordered:
        order = order_of(query)
        text += f" ORDER BY {writer.path(order.field)} {'DESC' if order.descending else 'ASC'}"
    return Statement(text, writer.parameters, writer.exact, _partition(mapping, query))


class _Writer:
    """Writes conditions, collecting their parameters."""

    def __init__(self, mapping: EntityMapping[Any]) -> None:
        self._fields = mapping.model.model_fields
        self.parameters: list[dict[str, object]] = []
        self.exact = True

    def path(self, field: str) -> str:
        return _property(_alias(self._fields, field))

    def condition(self, condition: Condition) -> str | None:
        path = self.path(condition.field)
        match condition:
            case Equals(field, str() as value, ignore_case=True):
                return self._ignoring_case(path, field, value)
            case Equals(field, value):
                return self._one_of(path, field, (value,))
            case OneOf(field, values):
                return self._one_of(path, field, values)
            case Before(_, moment):
                # Documents spell times in their own ways (offsets, digits): compare days, a day of grace each side.
                self.exact = False
                return f"{path} < {self._parameter(_day(moment, 2 * _DAY))}"
            case NotBefore(_, moment):
                self.exact = False
                return f"{path} >= {self._parameter(_day(moment, -_DAY))}"
            case other:
                assert_never(other)

    def is_of_type(self, discriminator: Discriminator, rivals: Sequence[str]) -> str:
        """Ask what Mappings.mapping_of answers: a property names the type, and none before it a rival."""
        values = ", ".join(map(self._parameter, discriminator.values))
        others = ", ".join(map(self._parameter, rivals))
        ways, before = [], ""
        for name in discriminator.properties:
            path = _property(name)
            ways.append(f"({before}{path} IN ({values}))")
            if others:
                before += f"NOT (IS_STRING({path}) AND {path} IN ({others})) AND "
        return f"({' OR '.join(ways)})"

    def _one_of(self, path: str, field: str, values: tuple[Any, ...]) -> str | None:
        if any(isinstance(value, datetime) for value in values):
            self.exact = False
            return None
        texts = [_json(text) for value in values for text in spellings(value)]
        ways = []
        if any(text is not None for text in texts):
            ways.append(f"{path} IN ({', '.join(self._parameter(text) for text in texts if text is not None)})")
        if None in texts:
            ways.append(f"IS_NULL({path})")
        if _default(self._fields, field) in values:  # a document may leave out what is the default
            ways.append(f"NOT IS_DEFINED({path})")
        return f"({' OR '.join(ways)})" if ways else "false"

    def _ignoring_case(self, path: str, field: str, value: str) -> str:
        ways = []
        for spelling in map(_json, spellings(value)):
            parameter = self._parameter(spelling)
            is_text = isinstance(spelling, str)
            ways.append(f"STRINGEQUALS({path}, {parameter}, true)" if is_text else f"{path} = {parameter}")
        default = _default(self._fields, field)
        if isinstance(default, str) and _same_but_case(default, value):
            ways.append(f"NOT IS_DEFINED({path})")
        return f"({' OR '.join(ways)})"

    def _parameter(self, value: object) -> str:
        name = f"@p{len(self.parameters)}"
        self.parameters.append({"name": name, "value": value})
        return name


def _partition(mapping: EntityMapping[Any], query: Query) -> list[KeyPart] | None:
    """Return the partition key that every document of the answer has, if the query says it."""
    fixed: dict[str, KeyPart] = {}
    for condition in query.where:
        match condition:
            case Equals(field, str() | int() as value, ignore_case=False) if len(spellings(value)) == 1:
                fixed[f"/{_alias(mapping.model.model_fields, field)}"] = _json(value)
            case _:
                pass
    return [fixed[path] for path in mapping.paths] if all(path in fixed for path in mapping.paths) else None


def _holds(found: Any, condition: Condition) -> bool:  # noqa: ANN401 - any field's value
    match condition:
        case Equals(_, str() as value, ignore_case=True):
            return isinstance(found, str) and _same_but_case(found, value)
        case Equals(_, value):
            return bool(found == value)
        case OneOf(_, values):
            return found in values
        case Before(_, moment):
            return isinstance(found, datetime) and found < moment
        case NotBefore(_, moment):
            return isinstance(found, datetime) and found >= moment
        case other:
            assert_never(other)


def _property(name: str) -> str:
    return f"c[{json.dumps(name, ensure_ascii=False)}]"


def _alias(fields: dict[str, FieldInfo], field: str) -> str:
    info = fields[field]
    alias = info.serialization_alias or info.alias or field
    return str(alias)


def _default(fields: dict[str, FieldInfo], field: str) -> Any:  # noqa: ANN401 - any field's value
    """Return what the model, and so a row, holds for a property that the document leaves out."""
    info = fields[field]
    if info.default_factory_takes_validated_data:
        return _MISSING
    default = info.get_default(call_default_factory=True)
    return _MISSING if default is PydanticUndefined else default


def _same_but_case(one: str, other: str) -> bool:
    """As both stores compare: letter by letter, so `ss` is no `ß` in any case."""
    return one.lower() == other.lower()


def _json(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    return to_jsonable_python(value.value if isinstance(value, Enum) else value)


def _day(moment: Instant, grace: timedelta) -> str:
    try:
        shifted: datetime = moment.astimezone(UTC) + grace
    except OverflowError:
        shifted = datetime.max.replace(tzinfo=UTC) if grace > timedelta(0) else datetime.min.replace(tzinfo=UTC)
    return f"{shifted.year:04d}-{shifted.month:02d}-{shifted.day:02d}"
