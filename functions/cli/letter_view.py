"""Prints dead letters, for people and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from core.printable import printable

if TYPE_CHECKING:
    from core.postgres.dead_letter_search import StoredLetter
    from core.postgres.parked_list import Parked


def line_of(letter: StoredLetter) -> str:
    """Return a letter as one line of text."""
    what = f"{letter.identity.entity} {letter.identity.id}" + (f" event {letter.reference}" if letter.reference else "")
    return printable(
        f"{letter.number}  {letter.direction} {letter.kind}  {what}  attempts {letter.attempts},"
        f" last {letter.last_at:%Y-%m-%dT%H:%M:%S%z}  {letter.reason}"
    )


def facts_of_parked(item: Parked) -> dict[str, Any]:
    """Return all that is known of something parked, as JSON values."""
    return {
        "direction": item.direction.value,
        "entity": item.identity.entity,
        "partition_key": item.identity.partition_key,
        "id": item.identity.id,
        "reference": item.reference,
        "reason": item.reason,
        "attempts": item.attempts,
        "first_at": item.first_at.isoformat(),
        "wait_s": item.wait_s,
    }


def line_of_parked(item: Parked) -> str:
    """Return something parked as one line of text."""
    what = f"{item.identity.entity} {item.identity.id}" + (f" event {item.reference}" if item.reference else "")
    when = "waits" if item.wait_s is None else f"again in {item.wait_s:.0f} s"
    return printable(f"{item.direction}  {what}  attempts {item.attempts}, {when}  {item.reason}")


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object."""
    print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
