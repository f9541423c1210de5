"""The identity of a document, (entity type, partition key, id), in one spelling that both stores agree on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from enum import Enum
from json.encoder import encode_basestring
from typing import NamedTuple

from core.errors import DocumentRefusedError

KeyPart = str | int | float | bool | None
"""What Cosmos DB accepts as one level of a partition key."""


class Anywhere(Enum):
    """No partition key was named: look in all of them."""

    ANYWHERE = "anywhere"


ANYWHERE = Anywhere.ANYWHERE
KeyArgument = KeyPart | Sequence[KeyPart] | Anywhere
"""A partition key as callers give it: one value, a value per level, or ANYWHERE (null is a key)."""

MAX_ID_BYTES = 1023
MAX_PARTITION_KEY_BYTES = 2048
_MAX_EXACT = 2**53
_QUOTES_OF_TEXT = 2
_FORBIDDEN_IN_ID = frozenset("/\\?#\t\r\n")
_STEPS = frozenset({"", ".", ".."})


class Identity(NamedTuple):
    """The key of a document. `partition_key` is a JSON array as text, `["acc-1"]`: one string for every kind of key.

    The same text is made by the SQL function `crossfeed.key_part`, so it may be compared, hashed and locked on.
    A tuple, because the relay makes, compares and hashes one for every message.
    """

    entity: str
    partition_key: str
    id: str

    @classmethod
    def of(cls, entity: str, parts: Sequence[KeyPart], id_: str) -> Identity:
        """Spell the identity of `entity` with these partition key parts (outermost level first)."""
        return cls(entity, key_text(parts), id_)

    @property
    def parts(self) -> list[KeyPart]:
        """The partition key's levels as the values that the Cosmos SDK takes."""
        parts: list[KeyPart] = json.loads(self.partition_key)
        return parts

    @property
    def has_text_key(self) -> bool:
        """Whether the partition key is certainly one text without escapes; most are."""
        key = self.partition_key
        return key[:2] == '["' and "\\" not in key and key.count('"') == _QUOTES_OF_TEXT

    @property
    def can_be_stored(self) -> bool:
        """Whether Postgres can hold it at all: text without NUL characters and halves of surrogate pairs."""
        text = self.id + self.partition_key
        if text.isascii() and "\0" not in self.id and "\\" not in self.partition_key:
            return True
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
        return "\0" not in self.id and "\0" not in "".join(part for part in self.parts if isinstance(part, str))

    def __str__(self) -> str:
        return f"{self.entity} {self.partition_key} {self.id!r}"


def is_readable_id(id_: str) -> bool:
    """Whether a document with this id can be read by its key: to HTTP a slash and dots are steps of the path.

    Not every client refuses to write one that cannot.
    """
    if id_.isascii():
        return "/" not in id_ and id_ not in _STEPS
    try:
        id_.encode()
    except UnicodeEncodeError:
        return False
    return "/" not in id_


def key_text(parts: Sequence[KeyPart]) -> str:
    """Spell a partition key as a JSON array without spaces; equal numbers have equal texts (`1`, `1.0`, `1e0`).

    Raises:
        DocumentRefusedError: a number that is none, or beyond 2^53, where equal numbers have several texts.

    """
    return "[" + ",".join(map(_part_text, parts)) + "]"


def _part_text(part: KeyPart) -> str:
    if isinstance(part, bool) or part is None:
        return json.dumps(part)
    if isinstance(part, str):
        return encode_basestring(part)  # what json.dumps makes of it without ensure_ascii
    if not -_MAX_EXACT <= part <= _MAX_EXACT:
        msg = "a partition key cannot be a number beyond 2^53"
        raise DocumentRefusedError(msg)
    number = Decimal(repr(part))
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def check_id(value: object) -> str:
    r"""Return `value` if both stores can hold it as a document id.

    Raises:
        DocumentRefusedError: not a string, empty, longer than 1,023 bytes of UTF-8, `.` or `..`, with a space at its
            end, or with one of `/ \ ? #`, a tab, a line break or NUL.

    """
    if not isinstance(value, str):
        msg = f"the id must be a string, not {type(value).__name__}"
        raise DocumentRefusedError(msg)
    if not value:
        msg = "the id is empty"
        raise DocumentRefusedError(msg)
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        msg = "the id holds half of a surrogate pair, which is not text"
        raise DocumentRefusedError(msg) from error
    if size > MAX_ID_BYTES:
        msg = f"the id has {size} bytes; Cosmos DB takes at most {MAX_ID_BYTES}"
        raise DocumentRefusedError(msg)
    if bad := sorted(_FORBIDDEN_IN_ID.intersection(value)):
        msg = f"the id holds {' '.join(map(repr, bad))}, which Cosmos DB refuses"
        raise DocumentRefusedError(msg)
    if value.endswith(" "):
        msg = "the id ends with a space, which Cosmos DB's client refuses"
        raise DocumentRefusedError(msg)
    if value in {".", ".."}:
        msg = f"the id is {value!r}, which every HTTP client takes for a step in the path"
        raise DocumentRefusedError(msg)
    if "\0" in value:
        msg = "the id holds a NUL character, which Postgres cannot store"
        raise DocumentRefusedError(msg)
    return value
