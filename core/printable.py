"""Spells what would steer a terminal: ids, names and reasons are other people's texts."""

from __future__ import annotations

import json


def printable(text: str) -> str:
    """Return the text with every character that is none to be seen (controls, ends of lines) spelled as JSON does."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else json.dumps(character)[1:-1] for character in text)
