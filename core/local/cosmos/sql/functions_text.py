"""Implements the string functions."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

import orjson

from core.local.cosmos.errors import bad_request
from core.local.cosmos.sql.compare import type_rank
from core.local.cosmos.sql.signature import Function, raw, typed
from core.local.cosmos.values import UNDEFINED

_FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}
_MAX_REPLICATE = 1 << 20
_NUMBER = re.compile(r"\s*-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?\s*")


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
    return "".join(parts) if all(type(part) is str for part in parts) else UNDEFINED


def _substring(text: str, start: float, length: float) -> str:
    first = max(0, int(start))
    return text[first : first + max(0, int(length))]


def _replicate(text: str, times: float) -> Any:  # noqa: ANN401 - JSON
    if times < 0 or len(text) * times > _MAX_REPLICATE:
        return UNDEFINED
    return text * int(times)


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
    return orjson.loads(text.strip()) if _NUMBER.fullmatch(text) else UNDEFINED


@lru_cache(maxsize=512)
def _pattern(pattern: str, flags: str) -> re.Pattern[str]:
    value = 0
    for flag in flags:
        if flag not in _FLAGS:
            message = f"The RegexMatch modifier {flag!r} is not known."
            raise bad_request(message)
        value |= _FLAGS[flag]
    try:
        return re.compile(pattern, value)
    except re.error as error:
        message = f"The regular expression {pattern!r} is not valid."
        raise bad_request(message) from error


def _regex_match(text: str, pattern: str, flags: str = "") -> bool:
    return _pattern(pattern, flags).search(text) is not None


def _index_of(text: str, part: str, start: float = 0) -> int:
    return text.find(part, int(start))


def _any_of(test: Any) -> Function:  # noqa: ANN401 - a predicate
    def check(text: Any, *parts: Any) -> Any:  # noqa: ANN401 - JSON
        if type(text) is not str or any(type(part) is not str for part in parts):
            return UNDEFINED
        return test(part in text for part in parts)

    return raw(check, 2, 1000)


TEXT_FUNCTIONS: Final[dict[str, Function]] = {
    "CONCAT": raw(_concat, 2, 1000),
    "CONTAINS": typed(_contains, "s", "s", "b", optional=1),
    "CONTAINS_ALL_CS": _any_of(all),
    "CONTAINS_ANY_CS": _any_of(any),
    "ENDSWITH": typed(_ends, "s", "s", "b", optional=1),
    "INDEX_OF": typed(_index_of, "s", "s", "i", optional=1),
    "LEFT": typed(lambda t, k: t[: max(0, int(k))], "s", "n"),
    "LENGTH": typed(len, "s"),
    "LOWER": typed(str.lower, "s"),
    "LTRIM": typed(lambda t, c=None: t.lstrip(c), "s", "s", optional=1),
    "REGEXMATCH": typed(_regex_match, "s", "s", "s", optional=1),
    "REPLACE": typed(lambda t, a, b: t.replace(a, b) if a else t, "s", "s", "s"),
    "REPLICATE": typed(_replicate, "s", "i"),
    "REVERSE": typed(lambda t: t[::-1], "s"),
    "RIGHT": typed(lambda t, k: t[-int(k) :] if k >= 1 else "", "s", "n"),
    "RTRIM": typed(lambda t, c=None: t.rstrip(c), "s", "s", optional=1),
    "STARTSWITH": typed(_starts, "s", "s", "b", optional=1),
    "STRINGEQUALS": typed(_equals, "s", "s", "b", optional=1),
    "STRINGJOIN": typed(
        lambda items, by: by.join(items) if all(type(i) is str for i in items) else UNDEFINED, "a", "s"
    ),
    "STRINGSPLIT": typed(lambda t, by: t.split(by) if by else [t], "s", "s"),
    "STRINGTOARRAY": _string_to(5),
    "STRINGTOBOOLEAN": _string_to(2),
    "STRINGTONULL": _string_to(1),
    "STRINGTONUMBER": typed(_string_to_number, "s"),
    "STRINGTOOBJECT": _string_to(6),
    "SUBSTRING": typed(_substring, "s", "n", "n"),
    "TOSTRING": raw(_to_string, 1),
    "TRIM": typed(lambda t, c=None: t.strip(c), "s", "s", optional=1),
    "UPPER": typed(str.upper, "s"),
}
