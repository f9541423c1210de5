"""Reads a moment from an option: a date and time, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

MOMENT_HELP = "2026-01-31T08:00 (UTC unless it has an offset), or how long ago: 90s, 15m, 2h, 3d"

_AGO = re.compile(r"(\d{1,9})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_moment(text: str) -> datetime | timedelta:
    """Return the moment, or how long ago it was: which moment that is, is for the store's clock to say."""
    if ago := _AGO.fullmatch(text):
        return timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        msg = f"{text!r} is neither a date and time such as 2026-01-31T08:00 nor a time span such as 15m"
        raise typer.BadParameter(msg) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
