"""Makes the rows of documents as fast as Python can, several times faster than the mapping does.

What it makes is what the mapping would have made, for every document that passed `check_values`. Each property is
looked at as it stands: most are what their column holds. One that is spelled otherwise is read by pydantic, alone.
Wherever it is not certain (a validator of the user's that looks at more than its own field, a child table, a property
that does not fit) nothing is made, and the mapping is asked, which knows the reason for a refusal as well.

The functions are written as those of core.quick_reader are, from nothing but positions.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic_core import SchemaValidator

from core.content import ENVELOPE, SYSTEM_PROPERTIES, Document
from core.mapping import EntityMapping
from core.projection import EXTRA_COLUMN, SPELLING_COLUMN, Row, same_json
from core.quick_reader import Code, test_of
from core.quick_schema import INSTANT_SCHEMA, NotQuickError, QuickSchema, alias_of
from core.row_schema import NotConstantError, RowSchema, may_change

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic_core import CoreSchema

    Read = Callable[[Any, dict[str, Any]], Any]
    """Takes the value of a property and the spellings that are kept; returns what its column holds."""

_OURS: Final = SYSTEM_PROPERTIES | {ENVELOPE}
_USUAL_MOMENT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.[0-9]{7})?Z?"
).fullmatch
_MISSING: Final = object()


class QuickRow:
    """The quick way from one mapping's documents to its rows.

    Args:
        mapping: of the documents.

    Raises:
        NotQuickError: there is none for this mapping.

    """

    def __init__(self, mapping: EntityMapping[Any]) -> None:
        if type(mapping) is not EntityMapping or mapping.children:
            raise NotQuickError
        projection = mapping.projection
        self._schema = schema = RowSchema(mapping.model)
        self._strict = QuickSchema(mapping.model)
        self._projection = projection
        names = [name for name in projection.field_columns if name in schema.fields]
        self._aliases = frozenset(alias_of(name, schema.fields[name]) for name in names)
        keys = [path.split("/")[1:] for path in mapping.paths]
        if (
            self._aliases != projection.aliases
            or len(names) != len(self._aliases)
            or not self._aliases.isdisjoint(_OURS)
            or not _OURS.isdisjoint(key[0] for key in keys)
        ):
            raise NotQuickError
        self._read = self._reader(names)
        self._others = {
            alias_of(name, schema.fields[name]): (schema.exact(name), self._is_constant(name))
            for name in schema.fields
            if name not in names
        }
        self._keys = [(*key, column) for key, column in zip(keys, mapping.key_columns, strict=True)]
        self._body = projection.body
        self._keeps_empty = projection.body != EXTRA_COLUMN
        self._forbids = schema.extras == "forbid"

    def row(self, content: Document) -> Row | None:
        """Return the row of a document's content, not to be changed, or None.

        None says nothing about the document but that the mapping must be asked.
        """
        try:
            row, spelling = self._read(content)
            rest = {name: value for name, value in content.items() if name not in self._aliases}
            if (self._others or self._forbids) and not self._takes(rest):
                return None
            for *path, column in self._keys:
                part: Any = content
                for name in path:
                    part = part[name]
                if type(part) is not str or row.setdefault(column, part) != part:
                    return None
        except Exception:  # noqa: BLE001 - a user's validators may raise anything; the mapping says what it is
            return None
        row[self._body] = rest if rest or self._keeps_empty else None
        row[SPELLING_COLUMN] = spelling or None
        return row

    def _takes(self, rest: Document) -> bool:
        """Whether the model takes the properties that have no column of their own."""
        for alias, (read, is_constant) in self._others.items():
            if alias in rest:
                read(_copied(rest[alias]))
            elif not is_constant:
                return False
        return not self._forbids or rest.keys() <= self._others.keys()

    def _is_constant(self, name: str) -> bool:
        try:
            self._schema.filled_in(name)
        except NotConstantError:
            return False
        return True

    def _reader(self, names: list[str]) -> Callable[[Document], tuple[Row, dict[str, Any]]]:
        """Return the function that makes the columns of the model's fields, and the spellings to keep.

        It may raise anything where a document is none of the model's, or where it does not know.
        """
        code = Code()
        code.names |= {"MISSING": _MISSING, "usual_moment": _USUAL_MOMENT}
        lines, made = ["get = content.get", "spelling = {}"], []
        for name in names:
            value = code.variable()
            alias = alias_of(name, self._schema.fields[name])
            spelled = code.constant(alias)
            lines += [f"{value} = get({spelled}, MISSING)", f"if {value} is MISSING:"]
            lines += self._missing(code, name, value, spelled)
            if self._projection.is_timestamp(name):
                lines += self._moment(code, name, value, spelled)
            else:
                test = test_of(self._strict.field(name), value, code, 0)
                read = code.constant(self._part(name, alias))
                if test is None:
                    code.late.clear()
                lines += [f"elif not ({test or False}): {value} = {read}({value}, spelling)"]
                if code.late:
                    ask = f"{code.constant(self._other(name, alias))}({value}, spelling)"
                    lines.append(f"elif not ({' and '.join(code.late)}): {value} = {ask}")
            code.late.clear()
            made.append(f"{code.constant(name)}: {value}")
        body = "\n    ".join([*lines, f"return {{{', '.join(made)}}}, spelling"])
        exec(f"def read(content):\n    {body}", code.names)  # noqa: S102 - of names that were made here
        read_all: Callable[[Document], tuple[Row, dict[str, Any]]] = code.names["read"]
        return read_all

    def _missing(self, code: Code, name: str, value: str, spelled: str) -> list[str]:
        """Write what becomes of a property that is left out."""
        kept: dict[str, Any] = {}
        try:
            default = self._schema.filled_in(name)
            column = self._other(name, "")(default, kept)
        except Exception:  # noqa: BLE001 - no constant, or one that the model itself does not read
            return ["    raise KeyError"]
        is_ = code.constant({"is": kept[""]["is"] if kept else default})
        return [f"    {value} = {code.constant(column)}", f"    spelling[{spelled}] = {is_}"]

    def _moment(self, code: Code, name: str, value: str, spelled: str) -> list[str]:
        """Write what becomes of a point in time: six digits and Z in the column, seven in the document."""
        other = f"{value} = {code.constant(self._other(name, code.names[spelled]))}({value}, spelling)"
        schema: Any = self._strict.field(name)
        is_nullable = schema["type"] == "nullable"
        if (schema["schema"] if is_nullable else schema) is not INSTANT_SCHEMA:
            return [f"else: {other}"]
        head = code.variable()
        return [
            f"elif type({value}) is str and usual_moment({value}) is not None:",
            f'    {head} = {value}[:26] if {value}[19:20] == "." else {value}[:19] + ".000000"',
            f"    ISO({head})",
            f'    if {value} != {head} + "0Z": spelling[{spelled}] = {{"is": {head} + "0Z", "was": {value}}}',
            f'    {value} = {head} + "Z"',
            f"elif {value} is not None: {other}" if is_nullable else f"else: {other}",
        ]

    def _part(self, name: str, alias: str) -> Read:
        """Return the function for a value that is not certain to stay what it is."""
        schema: CoreSchema = self._schema.field(name)
        read, other = SchemaValidator(schema).validate_python, self._other(name, alias)
        if may_change(schema):
            return _part_that_changes(read, other, alias)

        def part(value: Any, spelling: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
            try:
                made = read(value)
            except ValueError:
                return other(value, spelling)
            if made == value:
                return value
            spelling[alias] = {"is": made, "was": value}
            return made

        return part

    def _other(self, name: str, alias: str) -> Read:
        """Return the function for any value of a field: it takes the steps that the projection takes."""
        exact = self._schema.exact(name)
        to_column, from_column = self._projection.both_ways(name)

        def other(value: Any, spelling: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
            made = to_column(exact(_copied(value)))
            is_ = exact(from_column(made))
            if not same_json(value, is_):
                spelling[alias] = {"is": is_, "was": value}
            return made

        return other


def _part_that_changes(read: Callable[[Any], Any], other: Read, alias: str) -> Read:
    """Return the function for a value of a schema in which there is a validator of the user's."""

    def part(value: Any, spelling: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
        try:
            made = read(_copied(value))
            if _sorted(made) == _sorted(value):
                return value
            again = read(_copied(made))  # as it will be read from its column
        except ValueError:
            return other(value, spelling)
        if not same_json(value, again):
            spelling[alias] = {"is": again, "was": value}
        return made

    return part


_sorted = partial(orjson.dumps, option=orjson.OPT_SORT_KEYS)


def _copied(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return what a validator of the user's may change: the document must stay what it is."""
    return orjson.loads(orjson.dumps(value)) if isinstance(value, list | dict) else value


@lru_cache(maxsize=256)
def quick_row_of(mapping: EntityMapping[Any]) -> QuickRow | None:
    """Return the quick way of a mapping, or None if it has none."""
    try:
        return QuickRow(mapping)
    except NotQuickError:
        return None


def row_of(mapping: EntityMapping[Any], content: Document) -> Row:
    """Return the row of a document's content, not to be changed, as `EntityMapping.row` does.

    Args:
        mapping: of the document.
        content: of it (`content_of`), which passed `check_values`.

    Raises:
        DocumentRefusedError: as `EntityMapping.row`.

    """
    quick = quick_row_of(mapping)
    row = quick.row(content) if quick is not None else None
    return mapping.row(content) if row is None else row
