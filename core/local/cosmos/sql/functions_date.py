"""Implements the date and time functions."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from core.local.cosmos.sql.signature import Context, Function, typed
from core.local.cosmos.values import UNDEFINED

_ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,7}))?)?Z?", re.ASCII)
_TICKS_AT_EPOCH = 621355968000000000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {
    "year": "years", "yyyy": "years", "yy": "years", "month": "months", "mm": "months", "m": "months",
    "day": "days", "dd": "days", "d": "days", "hour": "hours", "hh": "hours", "minute": "minutes", "mi": "minutes",
    "n": "minutes", "second": "seconds", "ss": "seconds", "s": "seconds", "millisecond": "milliseconds",
    "ms": "milliseconds", "microsecond": "microseconds", "mcs": "microseconds", "nanosecond": "nanoseconds",
    "ns": "nanoseconds",
}  # fmt: skip
_TICKS = {
    "days": 864_000_000_000, "hours": 36_000_000_000, "minutes": 600_000_000, "seconds": 10_000_000,
    "milliseconds": 10_000, "microseconds": 10,
}  # fmt: skip


def _parse(text: str) -> int | None:
    """Return the 100 ns ticks since the Unix epoch of an ISO 8601 date."""
    found = _ISO.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    try:
        seconds = (datetime(year, month, day, hour, minute, second, tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)
    except ValueError:
        return None
    return seconds * 10_000_000 + int((found[7] or "").ljust(7, "0"))


def _format(ticks: int) -> Any:  # noqa: ANN401 - JSON
    try:
        moment = _EPOCH + timedelta(seconds=ticks // 10_000_000)
    except OverflowError:
        return UNDEFINED
    return f"{moment.replace(tzinfo=None).isoformat()}.{ticks % 10_000_000:07d}Z"


def _add(unit: str, amount: float, text: str) -> Any:  # noqa: ANN401 - JSON
    ticks, kind = _parse(text), _UNITS.get(unit.lower())
    if ticks is None or kind is None:
        return UNDEFINED
    if kind in _TICKS:
        return _format(ticks + int(amount) * _TICKS[kind])
    if kind == "nanoseconds":
        return _format(ticks + int(amount) // 100)
    moment = _EPOCH + timedelta(seconds=ticks // 10_000_000)
    months = moment.year * 12 + moment.month - 1 + int(amount) * (12 if kind == "years" else 1)
    for day in range(moment.day, 27, -1):
        try:
            shifted = moment.replace(year=months // 12, month=months % 12 + 1, day=day)
        except ValueError:
            continue
        break
    else:
        try:
            shifted = moment.replace(year=months // 12, month=months % 12 + 1)
        except ValueError:
            return UNDEFINED
    return _format((shifted - _EPOCH) // timedelta(seconds=1) * 10_000_000 + ticks % 10_000_000)


def _part(unit: str, text: str) -> Any:  # noqa: ANN401 - JSON
    ticks, kind = _parse(text), _UNITS.get(unit.lower())
    if ticks is None or (kind is None and unit.lower() not in {"weekday", "dw", "w"}):
        return UNDEFINED
    moment = _EPOCH + timedelta(seconds=ticks // 10_000_000)
    fraction = ticks % 10_000_000
    match kind:
        case "milliseconds":
            return fraction // 10_000
        case "microseconds":
            return fraction // 10
        case "nanoseconds":
            return fraction * 100
        case None:
            return moment.isoweekday() % 7 + 1
    return getattr(moment, kind[:-1])


def _difference(unit: str, start: str, end: str) -> Any:  # noqa: ANN401 - JSON
    first, last, kind = _parse(start), _parse(end), _UNITS.get(unit.lower())
    if first is None or last is None or kind is None:
        return UNDEFINED
    if kind == "nanoseconds":
        return (last - first) * 100
    if kind in _TICKS:
        return last // _TICKS[kind] - first // _TICKS[kind]
    a, b = (_EPOCH + timedelta(seconds=ticks // 10_000_000) for ticks in (first, last))
    return b.year - a.year if kind == "years" else (b.year - a.year) * 12 + b.month - a.month


def _bin(text: str, unit: str, size: float = 1, origin: str = "1970-01-01") -> Any:  # noqa: ANN401 - JSON
    """Return the start of the bin of `size` units, counted from `origin`, that a date falls in."""
    ticks, start, kind = _parse(text), _parse(origin), _UNITS.get(unit.lower())
    if ticks is None or start is None or size < 1:
        return UNDEFINED
    if kind == "nanoseconds":
        width = max(1, int(size) // 100)
    elif kind in _TICKS:
        width = int(size) * _TICKS[kind]
    else:
        return UNDEFINED
    return _format(start + (ticks - start) // width * width)


def is_datetime(value: object) -> bool:
    """Say whether a value is a string that is a date, with or without a time."""
    return type(value) is str and _parse(value) is not None


def _ticks_of(text: str) -> Any:  # noqa: ANN401 - JSON
    ticks = _parse(text)
    return UNDEFINED if ticks is None else ticks + _TICKS_AT_EPOCH


def _timestamp_of(text: str) -> Any:  # noqa: ANN401 - JSON
    ticks = _parse(text)
    return UNDEFINED if ticks is None else ticks // 10_000


def _from_parts(*parts: float) -> Any:  # noqa: ANN401 - JSON
    numbers = [int(part) for part in parts] + [0] * (7 - len(parts))
    year, month, day, hour, minute, second, fraction = numbers
    ticks = _parse(f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}.{fraction:07d}Z")
    return UNDEFINED if ticks is None else _format(ticks)


def _now(context: Context) -> Any:  # noqa: ANN401 - JSON
    return _format(context.ticks)


def _now_ticks(context: Context) -> int:
    return context.ticks + _TICKS_AT_EPOCH


def _now_timestamp(context: Context) -> int:
    return context.ticks // 10_000


def _ago(context: Context, unit: str, amount: float) -> Any:  # noqa: ANN401 - JSON
    return _add(unit, -amount, _format(context.ticks))


def _part_named(unit: str) -> Function:
    return typed(lambda text: _part(unit, text), "s")


DATE_FUNCTIONS: Final[dict[str, Function]] = {
    "AGO": typed(_ago, "s", "i", contextual=True),
    "DATETIMEADD": typed(_add, "s", "i", "s"),
    "DATETIMEBIN": typed(_bin, "s", "s", "n", "s", optional=2),
    "DATETIMEDIFF": typed(_difference, "s", "s", "s"),
    "DATETIMEFROMPARTS": typed(_from_parts, "i", "i", "i", "i", "i", "i", "i", optional=4),
    "DATETIMEPART": typed(_part, "s", "s"),
    "DATETIMETOTICKS": typed(_ticks_of, "s"),
    "DATETIMETOTIMESTAMP": typed(_timestamp_of, "s"),
    "DAY": _part_named("day"),
    "GETCURRENTDATETIME": typed(_now, contextual=True),
    "GETCURRENTDATETIMESTATIC": typed(_now, contextual=True),
    "GETCURRENTTICKS": typed(_now_ticks, contextual=True),
    "GETCURRENTTICKSSTATIC": typed(_now_ticks, contextual=True),
    "GETCURRENTTIMESTAMP": typed(_now_timestamp, contextual=True),
    "GETCURRENTTIMESTAMPSTATIC": typed(_now_timestamp, contextual=True),
    "MONTH": _part_named("month"),
    "NOW": typed(_now, contextual=True),
    "TICKSTODATETIME": typed(lambda ticks: _format(int(ticks) - _TICKS_AT_EPOCH), "n"),
    "TIMESTAMPTODATETIME": typed(lambda ms: _format(int(ms) * 10_000), "n"),
    "YEAR": _part_named("year"),
}
