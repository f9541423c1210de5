"""Respells texts that look like dates as Newtonsoft.Json does where nobody has told it not to, on a host in UTC."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

_ISO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,7})\d*)?(Z|[+-]\d\d:\d\d)?")


def respelled(value: Any) -> Any:
    """Return a JSON value with its dates as the host would show them."""
    match value:
        case dict():
            return {name: respelled(item) for name, item in value.items()}
        case list():
            return [respelled(item) for item in value]
        case str():
            return _date(value)
        case _:
            return value


def _date(text: str) -> str:
    found = _ISO.fullmatch(text)
    if found is None:
        return text
    seconds, fraction, zone = found.groups()
    moment = datetime.fromisoformat(seconds)
    if zone not in {None, "Z"}:
        hours, minutes = map(int, zone[1:].split(":"))
        offset = timedelta(hours=hours, minutes=minutes)
        moment, zone = (moment - offset if zone[0] == "+" else moment + offset), "+00:00"
    digits = (fraction or "").rstrip("0")
    return f"{moment.isoformat()}{'.' if digits else ''}{digits}{zone or ''}"
