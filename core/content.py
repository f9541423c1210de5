"""What a document's content is, whether both stores can hold it, and the hash that says who wrote it."""

from __future__ import annotations

import hashlib
import json
import math
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple, NoReturn

import orjson
import rfc8785

from core.errors import DocumentRefusedError

Document = dict[str, Any]
"""A JSON object as Python's json module reads it."""

ENVELOPE = "crossfeed"
"""The one property of a document that is ours."""

SYSTEM_PROPERTIES = frozenset({"_rid", "_self", "_etag", "_attachments", "_ts", "_lsn", "_metadata"})
MAX_DOCUMENT_BYTES = 2 * 1024 * 1024
MAX_DEPTH = 128
"""Cosmos DB's limit on objects and arrays inside each other, the document itself counted."""
ENVELOPE_BYTES = 1024
"""Room kept below Cosmos DB's 2 MB for our own property and the system properties."""

_MAX_EXACT = 2**53
_MAX_DIGITS = 400
_HASH_SCHEME = "1"
_FRACTIONS = (1e-5, 1e15)
"""Between these neither orjson nor RFC 8785 spells a number with an exponent."""
NO_FRACTIONS = (math.inf, 0.0)
"""For `is_plain`, where a number's digits are gone: it may have had more of them than a double holds."""
_SMALL_BYTES = MAX_DOCUMENT_BYTES // 4
_NUL = b"\\u0000"
_ESCAPE = 0x5C
"""A backslash: one byte is found many times faster than six."""
_LAST_OF_PLANE = "\uffff"


def content_of(document: Document) -> Document:
    """Return the user's own part of a document: without system properties and without ours."""
    return {key: value for key, value in document.items() if key not in SYSTEM_PROPERTIES and key != ENVELOPE}


def content_hash(document: Document) -> str:
    """Hash the content of a document: scheme 1 is BLAKE2b-128 over RFC 8785 canonical JSON; raises as `spelled` does.

    System properties, `id` and Crossfeed's own property are not covered.
    """
    return canonical_hash(spelled(content_of(document)).canonical)


class Spelled(NamedTuple):
    """What RFC 8785 makes of a content without its `id`; `is_sound`: the content passes `check_values` for certain."""

    canonical: bytes
    is_sound: bool


def spelled(content: Document) -> Spelled:
    """Spell a document's content (`content_of`) in its canonical form, without its `id`.

    Raises:
        DocumentRefusedError: it has none.

    """
    covered = content.copy()
    covered.pop("id", None)
    try:
        if (canonical := _plain_spelling(covered)) is not None:
            return Spelled(canonical, is_storable(canonical))
        return Spelled(rfc8785.dumps(_doubles(covered)), is_sound=False)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        msg = f"the document has no canonical form: {error}"
        raise DocumentRefusedError(msg) from error


def canonical_hash(canonical: bytes) -> str:
    """Hash what RFC 8785 makes of a document's content without its `id`."""
    return f"{_HASH_SCHEME}:{hashlib.blake2b(canonical, digest_size=16).hexdigest()}"


def plain_canonical(content: Document) -> bytes | None:
    """Spell plain content (see `is_plain`) as RFC 8785 does, ten times faster; None if a text of it is none."""
    try:
        return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # half of a surrogate pair
        return None


def is_plain(value: Any, levels: int = MAX_DEPTH, fractions: tuple[float, float] = _FRACTIONS) -> bool:  # noqa: ANN401 - any JSON
    """Whether orjson spells a value, sorted, as RFC 8785 does. Texts are not looked at.

    Not plain are numbers whose spelling is a matter of taste (`1.0`, exponents), integers beyond 2^53 and names
    of properties beyond the Basic Multilingual Plane, which RFC 8785 sorts by UTF-16.

    Args:
        value: any JSON value.
        levels: how many objects and arrays there may be inside each other.
        fractions: between which magnitudes numbers may have a fraction.

    """
    kind: type[Any] = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-_MAX_EXACT < value < _MAX_EXACT)
    if kind is float:
        return bool(fractions[0] <= abs(value) < fractions[1] and not value.is_integer())
    if levels <= 0 or (kind is not list and kind is not dict):
        return False
    for item in value if kind is list else value.values():
        inner = type(item)  # most are scalars, and a call costs more than all that it does with those
        if inner is str or inner is bool or item is None:
            continue
        if not is_plain(item, levels - 1, fractions):
            return False
    return kind is list or _are_plain_names(value)


def _are_plain_names(names: dict[str, Any]) -> bool:
    try:
        return (all_ := "".join(names)).isascii() or max(all_) <= _LAST_OF_PLANE
    except TypeError:
        return False


def _plain_spelling(value: Document) -> bytes | None:
    plain = value if is_plain(value) else _with_whole_numbers(value, MAX_DEPTH)
    return plain_canonical(plain) if plain is value or is_plain(plain) else None


def _with_whole_numbers(value: Any, levels: int) -> Any:  # noqa: ANN401 - any JSON value
    """Turn `1.0` into `1`, which RFC 8785 spells the same; others stay what they are."""
    kind: type[Any] = type(value)
    if kind is float:
        return int(value) if -_MAX_EXACT < value < _MAX_EXACT and value.is_integer() else value
    if levels > 0 and kind is dict:
        return {key: _with_whole_numbers(item, levels - 1) for key, item in value.items()}
    return [_with_whole_numbers(item, levels - 1) for item in value] if levels > 0 and kind is list else value


def _doubles(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Turn integers beyond 2^53 into the double that every JSON reader makes of them; others stay what they are."""
    match value:
        case dict():
            return {key: _doubles(item) for key, item in value.items()}
        case list():
            return [_doubles(item) for item in value]
        case bool():
            return value
        case int() if not -_MAX_EXACT < value < _MAX_EXACT:
            return _as_double(value, "$")
        case _:
            return value


def check_content(document: Document) -> None:
    """Refuse what one of the two stores cannot hold, before either of them sees it.

    Raises:
        DocumentRefusedError: see `check_values`; or a document over 2 MB.

    """
    if is_small_plain(document):
        return
    check_values(document)
    size = len(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_DOCUMENT_BYTES - ENVELOPE_BYTES:
        msg = (
            f"the document has {size} bytes; Cosmos DB takes 2 MB ({MAX_DOCUMENT_BYTES} bytes),"
            f" of which Crossfeed needs {ENVELOPE_BYTES}"
        )
        raise DocumentRefusedError(msg)


def is_small_plain(document: Document) -> bool:
    """Whether a document passes `check_content` for certain, found out quickly; most do."""
    canonical = _plain_spelling(document)
    return canonical is not None and is_storable(canonical)


def is_storable(canonical: bytes) -> bool:
    """Whether the document of which this is the plain spelling has no NUL character and is well below 2 MB."""
    return len(canonical) <= _SMALL_BYTES and (_ESCAPE not in canonical or _NUL not in canonical)


def check_values(document: Document) -> None:
    """Refuse values that one of the two stores cannot hold.

    Raises:
        DocumentRefusedError: a number that a JSON double cannot hold exactly, NaN or an infinity, a NUL
            character or half a surrogate pair in a text or a property name, a value that is not JSON,
            or more than 128 levels. The message names the place as a JSON path.

    """
    _check(document, "$", 1)


def _check(value: Any, path: str, depth: int) -> None:  # noqa: ANN401 - any JSON value
    match value:
        case str():
            _check_text(value, path)
        case None | bool():
            pass
        case int():
            _as_double(value, path)
        case float():
            if not math.isfinite(value):
                _refuse(path, f"{value} is not a JSON number")
        case dict() | list() if depth > MAX_DEPTH:
            _refuse(f"{path[:200]}…", f"objects and arrays inside each other, more than {MAX_DEPTH} levels")
        case dict():
            _check_object(value, path, depth)
        case list():
            for index, item in enumerate(value):
                _check(item, f"{path}[{index}]", depth + 1)
        case _:
            _refuse(path, f"{type(value).__name__} is not a JSON value")


def _check_object(value: dict[Any, Any], path: str, depth: int) -> None:
    for key, item in value.items():
        if not isinstance(key, str):
            _refuse(path, f"a property name must be a string, not {type(key).__name__}")
        _check_text(key, path)
        _check(item, f"{path}.{key}", depth + 1)


def _check_text(text: str, path: str) -> None:
    if "\0" in text:
        _refuse(path, "a NUL character, which Postgres cannot store")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            _refuse(path, "half of a surrogate pair, which is not text")


def _as_double(value: int, path: str) -> float:
    """Return the double that every JSON reader makes of an integer, if it is spelled back with the same digits.

    Beyond 2^53 a double has two faithful spellings, its exact value and its shortest digits: 2^68 is both
    295147905179352825856 and 295147905179352830000.
    """
    try:
        double = float(value)
    except OverflowError:
        double = math.inf
    if not math.isfinite(double) or (int(double) != value and Decimal(repr(double)) != value):
        _refuse(path, "an integer that a JSON double cannot hold exactly")
    return double


def load_exact(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Read JSON that Postgres wrote, refusing numbers that a JSON double cannot hold.

    Raises:
        DocumentRefusedError: a number with more digits than a double keeps (written by raw SQL into a numeric or
            JSONB), or nesting that no document may have.

    """
    try:
        return json.loads(text, parse_float=_exact_float, parse_int=_exact_int, parse_constant=_exact_float)
    except RecursionError:
        _refuse("$", f"objects and arrays inside each other, more than {MAX_DEPTH} levels")


def dump(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Write JSON for Postgres, also what orjson refuses: integers over 64 bits, halves of surrogate pairs."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value, separators=(",", ":"))


def _exact_float(text: str) -> float:
    value = float(text)
    try:
        exact = math.isfinite(value) and Decimal(repr(value)) == Decimal(text)
    except InvalidOperation:  # an exponent beyond what even Decimal holds
        exact = False
    if not exact:
        _refuse("$", "a number that a JSON double cannot hold exactly")
    return value


def _exact_int(text: str) -> float:
    # Longer ones overflow a double, and int() refuses to read them at all.
    value = int(text) if len(text) <= _MAX_DIGITS else 10**_MAX_DIGITS
    double = _as_double(value, "$")
    return value if -_MAX_EXACT <= value <= _MAX_EXACT else double


def _refuse(path: str, why: str) -> NoReturn:
    msg = f"the document cannot be stored in both stores: at {path}: {why}"
    raise DocumentRefusedError(msg)
