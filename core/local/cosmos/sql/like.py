"""Turns the patterns of LIKE into regular expressions that never go back over a part that has matched."""

from __future__ import annotations

import re
from functools import lru_cache

import regex

from core.local.cosmos.errors import bad_request


@lru_cache(maxsize=512)
def like_pattern(pattern: str, escape: str | None) -> regex.Pattern[str]:
    """Return the regular expression of a LIKE pattern.

    `%` is any text, `_` any character, `[a-f]` and `[^a-f]` are sets, in which wildcards stand for themselves.

    Raises:
        CosmosError: 400 for a set or an escape character that is not valid.
    """
    if escape is not None and len(escape) != 1:
        raise bad_request("The ESCAPE of a LIKE must be a single character.")
    parts = [""]
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == escape and position < len(pattern):
            parts[-1] += re.escape(pattern[position])
            position += 1
        elif char == "%":
            parts.append("")
        elif char == "_":
            parts[-1] += "."
        elif char == "[" and "]" in pattern[position + 1 :]:
            end = pattern.index("]", position + 1)
            parts[-1] += _set(pattern[position:end])
            position = end + 1
        else:
            parts[-1] += re.escape(char)
    first, *middle = parts
    last = f".*{middle.pop()}" if middle else ""
    # A part between two `%` may match where it first occurs, for good: what follows has the most room then.
    text = first + "".join(f"(?>.*?{part})" for part in middle if part) + last
    try:
        return regex.compile(text, regex.VERSION0 | regex.DOTALL, cache_pattern=False)
    except regex.error as error:
        message = f"The LIKE pattern {pattern!r} is not valid."
        raise bad_request(message) from error


def _set(content: str) -> str:
    negated = len(content) > 1 and content.startswith("^")
    inner = content[1:] if negated else content
    escaped = re.sub(r"[\\\[\]^&~|]|-(?=-)", r"\\\g<0>", inner)
    return f"[{'^' if negated else ''}{escaped}]"
