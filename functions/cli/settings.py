"""Shows which settings there are, what they do, and which of them are set here."""

import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer

from core.settings import environment
from core.settings_reference import grouped, markdown, reference
from functions.cli.options import AsJson

if TYPE_CHECKING:
    from core.settings_reference import Described

_CREDENTIALS: Final = re.compile(r"(?i)(key|password|secret|token)\s*=|://[^/@]*@")
"""What was pasted into the wrong setting: a connection string, or an address with a password."""


def settings(
    as_json: AsJson = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference of the README.")] = False,
) -> None:
    """Print every setting: its variable, what it takes, its default, what it does, and its value if it is set here.

    Secrets are not shown, only whether they are set. Nothing is connected to; whether the values do is what `crossfeed
    doctor` finds out.
    """
    if as_markdown:
        print(markdown())
        return
    given = environment()
    if as_json:
        print(orjson.dumps({"settings": [_facts(one, given) for one in reference()]}).decode())
        return
    for title, described in grouped(reference()):
        print(f"\n{title}")
        for one in described:
            value = _value(one, given)
            said = f"={value}" if value is not None else f"   default {one.default}" if one.default else ""
            print(f"  {one.variable}{said}\n      {one.description} ({one.kind.replace('`', '')})")


def _value(one: "Described", given: dict[str, str]) -> str | None:
    """Return the value as it may be shown, None where none is set."""
    value = next((given[name] for name in (one.variable, *one.also) if name in given), None)
    is_shown = value is None or not (one.is_secret or _CREDENTIALS.search(value))
    return value if is_shown else "(set, and not shown)"


def _facts(one: "Described", given: dict[str, str]) -> dict[str, Any]:
    return {
        "variable": one.variable,
        "also": one.also,
        "group": one.group,
        "takes": one.kind.replace("`", ""),
        "default": one.default or None,
        "description": one.description,
        "is_secret": one.is_secret,
        "is_set": _value(one, given) is not None,
        "value": _value(one, given),
    }
