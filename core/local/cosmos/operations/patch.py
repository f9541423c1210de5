"""Applies partial updates to documents."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import orjson

from core.local.cosmos.errors import bad_request, precondition_failed
from core.local.cosmos.operations import queries
from core.local.cosmos.values import UNDEFINED, whole_number

if TYPE_CHECKING:
    from core.local.cosmos.state.container import Container
    from core.local.cosmos.state.partition import Document

MAX_OPERATIONS = 10
_IMMUTABLE = [("id",), ("_rid",), ("_ts",), ("_etag",), ("_self",), ("_attachments",)]
_INT64 = range(-(1 << 63), 1 << 64)  # what JSON is written with


def apply(request: dict[str, Any], document: Document, container: Container) -> dict[str, Any]:
    """Return the body of `document` after the operations of a patch request.

    Raises:
        CosmosError: 400 for operations that are not allowed, 412 if the condition does not hold.
    """
    operations = request.get("operations")
    if not isinstance(operations, list) or not operations or not all(isinstance(o, dict) for o in operations):
        raise bad_request("A patch must have at least one operation.")
    if len(operations) > MAX_OPERATIONS:
        message = f"The number of patch operations can't exceed '{MAX_OPERATIONS}'."
        raise bad_request(message)
    condition = request.get("condition")
    if condition is not None and not queries.holds(str(condition), document.body, container.clock.now()):
        raise precondition_failed()
    body: dict[str, Any] = orjson.loads(document.raw)
    fixed = [*_IMMUTABLE, *container.key_definition.paths]
    for operation in operations:
        _apply_one(body, operation, fixed)
    return body


def _apply_one(body: dict[str, Any], operation: dict[str, Any], fixed: list[tuple[str, ...]]) -> None:
    kind = str(operation.get("op", "")).lower()
    path = _pointer(operation.get("path"))
    _check_free(path, fixed)
    if kind in {"add", "set", "replace", "incr"} and "value" not in operation:
        message = f"The patch operation {kind!r} lacks its value."
        raise bad_request(message)
    match kind:
        case "add" | "set":
            _write(body, path, operation["value"], insert=kind == "add")
        case "replace":
            if _read(body, path) is UNDEFINED:
                raise _missing(path)
            _write(body, path, operation["value"], insert=False)
        case "remove":
            _remove(body, path)
        case "incr":
            _increment(body, path, operation["value"])
        case "move":
            source = _pointer(operation.get("from"))
            value = _read(body, source)
            _check_free(source, fixed)
            if value is UNDEFINED:
                raise _missing(source)
            _remove(body, source)
            _write(body, path, value, insert=False)
        case _:
            message = f"The patch operation {kind!r} is not supported."
            raise bad_request(message)


def _check_free(path: list[str], fixed: list[tuple[str, ...]]) -> None:
    """Refuse to touch what is fixed, what it lies in and what lies in it."""
    for names in fixed:
        if all(one == other for one, other in zip(path, names, strict=False)):
            message = f"The path '/{'/'.join(names)}' cannot be patched."
            raise bad_request(message)


def _pointer(path: object) -> list[str]:
    if not isinstance(path, str) or not path.startswith("/") or len(path) < 2:  # noqa: PLR2004 - a slash and a name
        message = f"The patch path {path!r} is not valid."
        raise bad_request(message)
    return [part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/")]


def _missing(path: list[str]) -> Exception:
    return bad_request(f"The patch path '/{'/'.join(path)}' does not exist in the document.")


def _step(value: Any, name: str) -> Any:  # noqa: ANN401 - JSON
    if type(value) is dict:
        return value.get(name, UNDEFINED)
    if type(value) is list and (index := _index(name)) is not None and index < len(value):
        return value[index]
    return UNDEFINED


def _index(name: str) -> int | None:
    """Return the array index that a part of a path is, None if it is none: `0`, or digits that start with another."""
    return whole_number(name) if name == "0" or name[:1] != "0" else None


def _read(body: dict[str, Any], path: list[str]) -> Any:  # noqa: ANN401 - JSON
    value: Any = body
    for name in path:
        value = _step(value, name)
    return value


def _write(body: dict[str, Any], path: list[str], value: object, *, insert: bool) -> None:
    owner, name = _read(body, path[:-1]), path[-1]
    if type(owner) is dict:
        owner[name] = value
        return
    index = None
    if type(owner) is list:
        index = len(owner) if name == "-" else _index(name)
    if index is None or index > len(owner):
        raise _missing(path)
    owner[index : index if insert else index + 1] = [value]


def _remove(body: dict[str, Any], path: list[str]) -> None:
    if _read(body, path) is UNDEFINED:
        raise _missing(path)
    owner, name = _read(body, path[:-1]), path[-1]
    if type(owner) is list:
        del owner[int(name)]
    else:
        del owner[name]


def _increment(body: dict[str, Any], path: list[str], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad_request("The value of an increment must be a number.")
    old = _read(body, path)
    if old is UNDEFINED:
        old = 0
    if isinstance(old, bool) or not isinstance(old, int | float):
        raise bad_request("An increment needs a number to add to.")
    total = old + value
    if isinstance(total, int) and total not in _INT64:
        total = float(total)
    if isinstance(total, float) and not isfinite(total):
        raise bad_request("The sum of an increment is no number that JSON can hold.")
    _write(body, path, total, insert=False)
