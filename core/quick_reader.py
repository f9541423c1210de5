"""Writes the function that reads rows of one model as fast as Python can, from the model's quick schema.

The quick schema, read by pydantic, costs a few microseconds a row, most of them to make values again that stay what
they are. Here they are only looked at, in one expression per column; what an expression does not know, or not like, is
read by the quick schema as before. The code is written as that of dataclasses is, from nothing but positions: no name
and no value of the model's stands in it.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import CoreSchema, SchemaValidator

from core.instant import SIX_DIGITS
from core.quick_schema import EXACT, INSTANT_SCHEMA
from core.watched_validator import original

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from core.content import Document

_MAX_LEVELS = 8
"""Of parentheses in one expression; pydantic reads what is deeper."""


class Code:
    """Expressions that are being written, and the values that they refer to."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"ISO": datetime.fromisoformat, "unchangeable": unchangeable}
        self.late: list[str] = []
        """What is looked at last: a validator of the user's may change what it is given, so it is called once only."""
        self._count = 0

    def constant(self, value: Any) -> str:  # noqa: ANN401 - anything that code refers to
        """Return the name under which a value is known."""
        name = f"c{len(self.names)}"
        self.names[name] = value
        return name

    def variable(self) -> str:
        """Return a name that nothing else has."""
        self._count += 1
        return f"v{self._count}"


class Column(NamedTuple):
    """One column: its name, the property that it becomes, and the quick schema that says how.

    `is_moment`: it is a point in time that Postgres spelled in UTC, and that the schema spells as `spell_utc` does.
    """

    name: str
    alias: str
    schema: CoreSchema
    is_moment: bool = False


def reader(columns: Sequence[Column]) -> Callable[[dict[str, Any]], Document]:
    """Return the function that makes a document of a row.

    It may raise anything where a row is none of the model's, or where it does not know.
    """
    code = Code()
    lines, made = [], []
    for column, alias, schema, is_moment in columns:
        name = code.variable()
        lines.append(f"{name} = row[{code.constant(column)}]")
        ask = code.constant(SchemaValidator(schema).validate_python)
        if is_moment:
            is_usual = f"type({name}) is str and len({name}) == {SIX_DIGITS} and {name}[19] == '.' and {name}[4] == '-'"
            # Years before Christ end with BC.
            lines.append(f"{name} = {name} + '0Z' if {is_usual} and {name}[-1] != 'C' else {ask}({name})")
        else:
            test = test_of(schema, name, code, 0)
            lines.append(f"{name} = {ask}({name})" if test is None else f"if not ({test}): {name} = {ask}({name})")
            if test is not None and code.late:
                lines.append(f"elif not ({' and '.join(code.late)}): {name} = {ask}(unchangeable({name}))")
            code.late.clear()
        made.append(f"{code.constant(alias)}: {name}")
    body = "\n    ".join([*lines, f"return {{{', '.join(made)}}}"])
    exec(f"def read(row):\n    {body}", code.names)  # noqa: S102 - of names that were made here
    read: Callable[[dict[str, Any]], Document] = code.names["read"]
    return read


def test_of(schema: Any, name: str, code: Code, level: int) -> str | None:  # noqa: ANN401, PLR0911 - any schema; one per kind
    """Return the expression that is true of values that the schema leaves as they are; None if there is none.

    What it is asked about is JSON. It may be false, or raise, of others that the schema takes as well.
    """
    known = schema.keys() - {"type", "strict"}
    if schema is INSTANT_SCHEMA:
        # What ends with Z is in UTC, so no offset leads out of the years 1 to 9999; it raises for what is no time.
        return f"type({name}) is str and {name}[-1:] == 'Z' and ISO({name}) is not None"
    match schema["type"]:
        case "str" if not known:
            return f"type({name}) is str"
        case "bool" if not known:
            return f"type({name}) is bool"
        case "int" if known <= {"ge", "le"}:
            return f"type({name}) is int and {-EXACT} <= {name} <= {EXACT}"
        case "literal":
            return f"{name} in {code.constant(frozenset(schema['expected']))}"
        case "nullable" | "function-before":
            return _test_of_inner(schema, name, code, level + 1)
        case "list" if known == {"items_schema"} and (kind := _scalar(schema["items_schema"])) is not None:
            are_all = f"{code.constant({kind})}.issuperset(map(type, {name}))"
            return f"type({name}) is list and (not {name} or {are_all})"
        case "typed-dict" if level < _MAX_LEVELS:
            return _test_of_object(schema, name, code, level + 1)
        case _:
            return None


def _test_of_inner(schema: dict[str, Any], name: str, code: Code, level: int) -> str | None:
    """Look at what a schema is that says null, or a validator, before another one; that one has no validators."""
    late = len(code.late)
    test = test_of(schema["schema"], name, code, level)
    if test is None or len(code.late) > late:
        return None
    if schema["type"] == "nullable":
        return f"{name} is None or {test}"
    code.late.append(f"{code.constant(original(schema['function']['function']))}({name}) is {name} and ({test})")
    return f"{name} is {name}"


def unchangeable(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a value that is still what it was, whatever a validator did with it.

    Raises:
        ValueError: it may have been changed.

    """
    if isinstance(value, list | dict):
        msg = "a validator has seen it already"
        raise ValueError(msg)  # noqa: TRY004 - as everything that is not known here
    return value


def _scalar(schema: dict[str, Any]) -> type[Any] | None:
    """Return the type that alone decides whether a schema takes a JSON value."""
    if schema.keys() - {"type", "strict"}:
        return None
    return {"str": str, "bool": bool}.get(schema["type"])


def _test_of_object(schema: dict[str, Any], name: str, code: Code, level: int) -> str | None:
    """Look at the properties that the model has; an object that has others as well is read by pydantic."""
    tests = [f"type({name}) is dict and len({name}) == {len(schema['fields'])}"]
    for alias, field in schema["fields"].items():
        inner = code.variable()
        test = test_of(field["schema"], inner, code, level)
        if test is None:
            return None
        value = f"({inner} := {name}[{code.constant(alias)}])"
        # What is first in the expression is the value itself, in place of its name.
        tests.append(f"({test.replace(inner, value, 1)})")
    return " and ".join(tests)
