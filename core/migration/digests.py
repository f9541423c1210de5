"""Computes the digests of documents that Postgres computes of rows: its own hashes, spelled out for the client.

A digest is a count and an xor over the hashes of (identity, token). The token says which state it is: the stamp of what
Postgres wrote, the `_etag` of what Cosmos DB wrote. So equal digests of two sets mean that both hold the same states of
the same identities, but for a chance of 2^-64.

The hashes are `hashtextextended` and `hashint8extended` of Postgres (Bob Jenkins' lookup3, src/common/hashfn.c), the
only ones that are quick on both sides. Postgres keeps them as they are: hash partitions of its users depend on it. Were
they other ones on some machine, every document would be compared one by one, with the same result.
"""

from __future__ import annotations

from struct import unpack_from
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from core.identity import key_text
from core.postgres.names import quoted

if TYPE_CHECKING:
    from core.identity import Identity
    from core.mapping import EntityMapping
    from core.stamp import Stamp

FIRST_BITS: Final = 10
"""How many bits of an identity's hash make the buckets of the first comparison."""

_WORD: Final = 0xFFFF_FFFF
_LONG: Final = 0xFFFF_FFFF_FFFF_FFFF
_INIT: Final = 0x9E37_79B9 + 3_923_095
_BLOCK: Final = 12
_EPOCH_BITS: Final = 40


class Digest(NamedTuple):
    """How many states there are, and the xor of their hashes (unsigned, 64 bits)."""

    states: int
    xor: int


def text_hash(text: bytes, seed: int = 0) -> int:
    """Return `hashtextextended(text COLLATE "C", seed)` as an unsigned number of 64 bits."""
    length = len(text)
    a = b = c = (_INIT + length) & _WORD
    if seed:
        a, b, c = _mix((a + (seed >> 32)) & _WORD, (b + (seed & _WORD)) & _WORD, c)
    whole = length - length % _BLOCK
    for place in range(0, whole, _BLOCK):
        x, y, z = unpack_from("<III", text, place)
        a, b, c = _mix((a + x) & _WORD, (b + y) & _WORD, (c + z) & _WORD)
    x, y, z = unpack_from("<III", text[whole:].ljust(_BLOCK, b"\0"))
    return _final((a + x) & _WORD, (b + y) & _WORD, (c + (z << 8)) & _WORD)  # c's lowest byte is the length's


def number_hash(number: int) -> int:
    """Return `hashint8extended(number, 0)` of an unsigned number of 64 bits, likewise."""
    high = number >> 32
    low = (number & _WORD) ^ (high if high < 1 << 31 else ~high & _WORD)
    start = (_INIT + 4) & _WORD
    return _final((start + low) & _WORD, start, start)


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    a = (a - c) & _WORD ^ (c << 4 | c >> 28) & _WORD
    c = (c + b) & _WORD
    b = (b - a) & _WORD ^ (a << 6 | a >> 26) & _WORD
    a = (a + c) & _WORD
    c = (c - b) & _WORD ^ (b << 8 | b >> 24) & _WORD
    b = (b + a) & _WORD
    a = (a - c) & _WORD ^ (c << 16 | c >> 16) & _WORD
    c = (c + b) & _WORD
    b = (b - a) & _WORD ^ (a << 19 | a >> 13) & _WORD
    a = (a + c) & _WORD
    c = (c - b) & _WORD ^ (b << 4 | b >> 28) & _WORD
    return a, (b + a) & _WORD, c


def _final(a: int, b: int, c: int) -> int:
    c = ((c ^ b) - (b << 14 | b >> 18)) & _WORD
    a = ((a ^ c) - ((c << 11 | c >> 21) & _WORD)) & _WORD
    b = ((b ^ a) - ((a << 25 | a >> 7) & _WORD)) & _WORD
    c = ((c ^ b) - ((b << 16 | b >> 16) & _WORD)) & _WORD
    a = ((a ^ c) - ((c << 4 | c >> 28) & _WORD)) & _WORD
    b = ((b ^ a) - ((a << 14 | a >> 18) & _WORD)) & _WORD
    c = ((c ^ b) - ((b << 24 | b >> 8) & _WORD)) & _WORD
    return b << 32 | c


def key_hash(mapping: EntityMapping[Any], identity: Identity) -> int:
    """Hash an identity as `key_hash_sql` does."""
    key = 0
    parts = dict(zip(mapping.key_columns, identity.parts, strict=True)) | {"id": identity.id}
    for name in mapping.identity_columns:
        part = parts[name]
        if not _is_text(mapping, name) or not isinstance(part, str | None):
            part = key_text([part])[1:-1]
        key = text_hash((part or "").encode(), key)
    return key


def key_hash_sql(mapping: EntityMapping[Any], row: str) -> str:
    """Return the SQL that hashes the identity of `row`; in the C collation, whatever the columns'."""
    key = "0"
    for name in mapping.identity_columns:
        column = f"{row}.{quoted(name)}"
        text = f"coalesce({column}::text, '')" if _is_text(mapping, name) else f"crossfeed.key_part(to_jsonb({column}))"
        key = f'hashtextextended({text} COLLATE "C", {key})'
    return key


def stamp_token(stamp: Stamp) -> int:
    """Return the token of a state that Postgres wrote."""
    return (stamp.epoch << _EPOCH_BITS ^ stamp.version) & _LONG


def etag_token(etag: str) -> int:
    """Return the token of a state that Cosmos DB wrote."""
    return text_hash(etag.encode())


def token_sql(row: str) -> str:
    """Return the SQL of the token of `row`; the parameter `cosmos_epochs` names those in which Cosmos DB was primary.

    Args:
        row: a row of a mapped table.

    """
    return (
        f"CASE WHEN {row}.crossfeed_epoch = ANY(%(cosmos_epochs)s::bigint[])"
        f""" THEN hashtextextended(coalesce({row}.crossfeed_etag, '') COLLATE "C", 0)"""
        f" ELSE ({row}.crossfeed_epoch << {_EPOCH_BITS}) # {row}.crossfeed_version END"
    )


def state_hash(key: int, token: int) -> int:
    """Hash a state, as `hashint8extended(key # token, 0)` does."""
    return number_hash(key ^ token)


def unsigned(number: int) -> int:
    """Return a bigint of Postgres as an unsigned number."""
    return number & _LONG


def _is_text(mapping: EntityMapping[Any], name: str) -> bool:
    return name == "id" or isinstance(mapping.table.columns[name].type, sa.String)
