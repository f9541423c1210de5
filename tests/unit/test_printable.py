"""What verbs print of other people's texts steers no terminal."""

from __future__ import annotations

from core.identity import Identity
from core.migration.parity import Difference, DifferenceKind
from core.printable import printable
from functions.cli.validate import _named

HOSTILE = "a\x1b[2J\x9b31m\nforged\r\u2028"


def test_what_is_no_character_to_be_seen_is_spelled() -> None:
    assert printable(HOSTILE) == "a\\u001b[2J\\u009b31m\\nforged\\r\\u2028"
    assert printable("ä 😀 'text'") == "ä 😀 'text'"


def test_a_property_of_a_foreign_document_is_spelled() -> None:
    identity = Identity.of("Account", [HOSTILE], HOSTILE)
    line = _named(Difference(identity, DifferenceKind.DIFFERENT, None, None, fields=(HOSTILE,)))
    assert line.isprintable()
