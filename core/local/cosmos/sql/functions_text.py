"""Implements the string functions."""

from __future__ import annotations

import re
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, Final

import orjson
import regex

from core.local.cosmos.errors import bad_request
from core.local.cosmos.sql.compare import type_rank
from core.local.cosmos.sql.operators import MAX_TEXT, finite
from core.local.cosmos.sql.signature import MANY, Context, Function, all_true, any_true, raw, typed
from core.local.cosmos.values import UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_FLAGS = {"i": regex.IGNORECASE, "m": regex.MULTILINE, "s": regex.DOTALL, "x": regex.VERBOSE}
_MAX_REPLICATE = 10_000
_MAX_PATTERN = 10_000  # characters
_MAX_REPEATS = 1_000_000  # the pattern is unrolled as often
_REPEAT = re.compile(r"\{(\d*),?(\d*)[^}]*\}")
_SHORT = 18  # so many digits are a whole number of 64 bits
_NUMBER = re.compile(r"\s*-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?\s*", re.ASCII)


def _pair(text: str, other: str, ignore_case: Any = False) -> tuple[str, str]:  # noqa: ANN401 - SQL's shape
    return (text.lower(), other.lower()) if ignore_case is True else (text, other)


def _contains(text: str, other: str, *flag: Any) -> bool:  # noqa: ANN401 - JSON
    whole, part = _pair(text, other, *flag)
    return part in whole


def _starts(text: str, other: str, *flag: Any) -> bool:  # noqa: ANN401 - JSON
    whole, part = _pair(text, other, *flag)
    return whole.startswith(part)


def _ends(text: str, other: str, *flag: Any) -> bool:  # noqa: ANN401 - JSON
    whole, part = _pair(text, other, *flag)
    return whole.endswith(part)


def _equals(text: str, other: str, *flag: Any) -> bool:  # noqa: ANN401 - JSON
    whole, part = _pair(text, other, *flag)
    return whole == part


def _concat(*parts: Any) -> Any:  # noqa: ANN401 - JSON
    if any(type(part) is not str for part in parts) or sum(map(len, parts)) > MAX_TEXT:
        return UNDEFINED
    return "".join(parts)


def _substring(text: str, start: float, length: float) -> str:
    """Return a part of a text; one that would start before the text is empty."""
    return text[int(start) : int(start) + int(length)] if start >= 0 and length > 0 else ""


def _left(text: str, length: float) -> str:
    return _substring(text, 0, length)


def _right(text: str, length: float) -> str:
    return text[max(0, len(text) - int(length)) :] if length > 0 else ""


def _replace(text: str, old: str, new: str) -> Any:  # noqa: ANN401 - JSON
    if not old or len(text) + text.count(old) * (len(new) - len(old)) > MAX_TEXT:
        return UNDEFINED
    return text.replace(old, new)


def _replicate(text: str, times: float) -> Any:  # noqa: ANN401 - JSON
    if times < 0 or len(text) * times > _MAX_REPLICATE:
        return UNDEFINED
    return text * int(times) if text else ""


def _join(items: list[Any], separator: str) -> Any:  # noqa: ANN401 - JSON
    if any(type(item) is not str for item in items):
        return UNDEFINED
    longer = sum(map(len, items)) + len(separator) * len(items) > MAX_TEXT
    return UNDEFINED if longer else separator.join(items)


def _to_string(value: Any) -> Any:  # noqa: ANN401 - JSON
    if value is UNDEFINED:
        return UNDEFINED
    return value if type(value) is str else orjson.dumps(value).decode()


def _string_to(kind: int) -> Function:
    def convert(text: Any) -> Any:  # noqa: ANN401 - JSON
        if type(text) is not str:
            return UNDEFINED
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return UNDEFINED
        return value if type_rank(value) == kind else UNDEFINED

    return raw(convert, 1)


def _string_to_number(text: str) -> Any:  # noqa: ANN401 - JSON
    if not _NUMBER.fullmatch(text):
        return UNDEFINED
    digits = text.strip()
    return int(digits) if len(digits) <= _SHORT and digits.lstrip("-").isdecimal() else finite(float(digits))


@lru_cache(maxsize=512)
def _pattern(pattern: str, flags: str) -> regex.Pattern[str]:
    value = regex.VERSION0
    for flag in flags:
        if flag not in _FLAGS:
            message = f"The RegexMatch modifier {flag!r} is not known."
            raise bad_request(message)
        value |= _FLAGS[flag]
    repeats = prod(float(most or least or 1) or 1.0 for least, most in _REPEAT.findall(pattern[:_MAX_PATTERN]))
    if len(pattern) > _MAX_PATTERN or repeats > _MAX_REPEATS:
        raise bad_request("The regular expression is too large.")
    try:
        return regex.compile(pattern, value, cache_pattern=False)
    except regex.error as error:
        message = f"The regular expression {pattern!r} is not valid."
        raise bad_request(message) from error


def _regex_match(context: Context, text: str, pattern: str, flags: str = "") -> bool:
    return context.matches(_pattern(pattern, flags).search, text, pattern)


def _index_of(text: str, part: str, start: float = 0) -> int:
    return text.find(part, max(0, int(start)))


def _last_index_of(text: str, part: str, start: float | None = None) -> int:
    """Search backwards from the position `start`."""
    if start is None:
        return text.rfind(part)
    return text.rfind(part, 0, int(start) + 1) if start >= 0 else -1


def _of_several(join: Callable[[Iterable[Any]], Any], *, ignore_case: bool) -> Function:
    def check(text: Any, *parts: Any) -> Any:  # noqa: ANN401 - JSON
        if type(text) is not str:
            return UNDEFINED
        return join(_contains(text, part, ignore_case) if type(part) is str else UNDEFINED for part in parts)

    return raw(check, 2, MANY)


TEXT_FUNCTIONS: Final[dict[str, Function]] = {
    "CONCAT": raw(_concat, 2, MANY),
    "CONTAINS": typed(_contains, "s", "s", "b", optional=1),
    "CONTAINS_ALL_CI": _of_several(all_true, ignore_case=True),
    "CONTAINS_ALL_CS": _of_several(all_true, ignore_case=False),
    "CONTAINS_ANY_CI": _of_several(any_true, ignore_case=True),
    "CONTAINS_ANY_CS": _of_several(any_true, ignore_case=False),
    "ENDSWITH": typed(_ends, "s", "s", "b", optional=1),
    "INDEX_OF": typed(_index_of, "s", "s", "i", optional=1),
    "LASTINDEXOF": typed(_last_index_of, "s", "s", "i", optional=1),
    "LEFT": typed(_left, "s", "i"),
    "LENGTH": typed(len, "s"),
    "LOWER": typed(str.lower, "s"),
    "LTRIM": typed(lambda t, c=None: t.lstrip(c), "s", "s", optional=1),
    "REGEXMATCH": typed(_regex_match, "s", "s", "s", optional=1, contextual=True),
    "REPLACE": typed(_replace, "s", "s", "s"),
    "REPLICATE": typed(_replicate, "s", "n"),
    "REVERSE": typed(lambda t: t[::-1], "s"),
    "RIGHT": typed(_right, "s", "i"),
    "RTRIM": typed(lambda t, c=None: t.rstrip(c), "s", "s", optional=1),
    "STARTSWITH": typed(_starts, "s", "s", "b", optional=1),
    "STRINGEQUALS": typed(_equals, "s", "s", "b", optional=1),
    "STRINGJOIN": typed(_join, "a", "s"),
    "STRINGSPLIT": typed(lambda t, by: t.split(by) if by else [t], "s", "s"),
    "STRINGTOARRAY": _string_to(5),
    "STRINGTOBOOLEAN": _string_to(2),
    "STRINGTONULL": _string_to(1),
    "STRINGTONUMBER": typed(_string_to_number, "s"),
    "STRINGTOOBJECT": _string_to(6),
    "SUBSTRING": typed(_substring, "s", "i", "i"),
    "TOSTRING": raw(_to_string, 1),
    "TRIM": typed(lambda t, c=None: t.strip(c), "s", "s", optional=1),
    "UPPER": typed(str.upper, "s"),
}
