"""Hashes partition keys to effective partition keys, which decide the physical partition of a document."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

from core.local.cosmos.values import UNDEFINED, Undefined

MIN_EPK: Final = ""
MAX_EPK: Final = "FF"
HASH_SPACE_V2: Final = 0x40 << 120
_MASK32: Final = 0xFFFFFFFF
_MASK64: Final = 0xFFFFFFFFFFFFFFFF
_HALF_BLOCK: Final = 8
_SIGN_BIT: Final = 1 << 63
_V1_STRING_LIMIT: Final = 100

KeyComponent = str | int | float | bool | None | Undefined
PartitionKeyValue = tuple[KeyComponent, ...]


def _rotl64(value: int, shift: int) -> int:
    return ((value << shift) | (value >> (64 - shift))) & _MASK64


def _fmix64(value: int) -> int:
    value ^= value >> 33
    value = (value * 0xFF51AFD7ED558CCD) & _MASK64
    value ^= value >> 33
    value = (value * 0xC4CEB9FE1A85EC53) & _MASK64
    return value ^ (value >> 33)


def murmur3_128(data: bytes) -> tuple[int, int]:
    """Return the two 64-bit halves of MurmurHash3 x64 128 with seed 0."""
    c1, c2 = 0x87C37B91114253D5, 0x4CF5AD432745937F
    h1 = h2 = 0
    blocks = len(data) // 16
    for k1, k2 in struct.iter_unpack("<QQ", data[: blocks * 16]):
        h1 ^= (_rotl64((k1 * c1) & _MASK64, 31) * c2) & _MASK64
        h1 = ((_rotl64(h1, 27) + h2) * 5 + 0x52DCE729) & _MASK64
        h2 ^= (_rotl64((k2 * c2) & _MASK64, 33) * c1) & _MASK64
        h2 = ((_rotl64(h2, 31) + h1) * 5 + 0x38495AB5) & _MASK64
    tail = data[blocks * 16 :]
    if len(tail) > _HALF_BLOCK:
        k2 = int.from_bytes(tail[8:], "little")
        h2 ^= (_rotl64((k2 * c2) & _MASK64, 33) * c1) & _MASK64
    if tail:
        k1 = int.from_bytes(tail[:8], "little")
        h1 ^= (_rotl64((k1 * c1) & _MASK64, 31) * c2) & _MASK64
    h1 ^= len(data)
    h2 ^= len(data)
    h1 = (h1 + h2) & _MASK64
    h2 = (h2 + h1) & _MASK64
    h1, h2 = _fmix64(h1), _fmix64(h2)
    h1 = (h1 + h2) & _MASK64
    return h1, (h2 + h1) & _MASK64


def murmur3_32(data: bytes) -> int:
    """Return MurmurHash3 x86 32 with seed 0."""
    c1, c2 = 0xCC9E2D51, 0x1B873593
    h1 = 0
    whole = len(data) & ~3
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        k1 = (word * c1) & _MASK32
        k1 = ((k1 << 15) | (k1 >> 17)) & _MASK32
        h1 ^= (k1 * c2) & _MASK32
        h1 = ((h1 << 13) | (h1 >> 19)) & _MASK32
        h1 = (h1 * 5 + 0xE6546B64) & _MASK32
    if whole < len(data):
        k1 = (int.from_bytes(data[whole:], "little") * c1) & _MASK32
        k1 = ((k1 << 15) | (k1 >> 17)) & _MASK32
        h1 ^= (k1 * c2) & _MASK32
    h1 ^= len(data)
    h1 ^= h1 >> 16
    h1 = (h1 * 0x85EBCA6B) & _MASK32
    h1 ^= h1 >> 13
    h1 = (h1 * 0xC2B2AE35) & _MASK32
    return h1 ^ (h1 >> 16)


def _for_hashing(value: KeyComponent, suffix: bytes) -> bytes:
    if value is UNDEFINED:
        return b"\x00"
    if value is None:
        return b"\x01"
    if isinstance(value, bool):
        return b"\x03" if value else b"\x02"
    if isinstance(value, str):
        return b"\x08" + value.encode() + suffix
    assert isinstance(value, int | float)
    return b"\x05" + struct.pack("<d", value + 0.0)  # a negative zero is the key zero


def _encode_number_v1(value: float) -> bytes:
    (payload,) = struct.unpack("<Q", struct.pack("<d", value))
    payload = payload ^ _SIGN_BIT if payload < _SIGN_BIT else (~payload + 1) & _MASK64
    out = bytearray([0x05, payload >> 56])
    payload = (payload << 8) & _MASK64
    pending, first = 0, True
    while payload:
        if not first:
            out.append(pending)
        first = False
        pending = (payload >> 56) | 0x01
        payload = (payload << 7) & _MASK64
    out.append(pending & 0xFE)
    return bytes(out)


def _encode_v1(value: KeyComponent) -> bytes:
    if isinstance(value, str):
        utf8 = value.encode()
        if len(utf8) <= _V1_STRING_LIMIT:
            return b"\x08" + bytes(b + 1 for b in utf8) + b"\x00"
        return b"\x08" + bytes(b + 1 for b in utf8[: _V1_STRING_LIMIT + 1])
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _encode_number_v1(value + 0.0)
    return _for_hashing(value, b"")


def _hash_v2(data: bytes) -> str:
    low, high = murmur3_128(data)
    return f"{((high << 64) | low) & ((1 << 126) - 1):032X}"


def _epk_v1(key: PartitionKeyValue) -> str:
    cut = tuple(v[:_V1_STRING_LIMIT] if isinstance(v, str) else v for v in key)
    hashed = float(murmur3_32(b"".join(_for_hashing(v, b"\x00") for v in cut)))
    return (_encode_number_v1(hashed) + b"".join(_encode_v1(v) for v in cut)).hex().upper()


@lru_cache(maxsize=16384)
def _epk_cached(kind: str, version: int, typed: tuple[tuple[type, KeyComponent], ...]) -> str:
    key = tuple(value for _, value in typed)
    if kind == "MultiHash":
        return "".join(_hash_v2(_for_hashing(value, b"\xff")) for value in key)
    if version == 1:
        return _epk_v1(key)
    return _hash_v2(b"".join(_for_hashing(value, b"\xff") for value in key))


def effective_partition_key(key: PartitionKeyValue, kind: str, version: int) -> str:
    """Return the upper-case hex effective partition key of `key`.

    `kind` is `Hash` or `MultiHash` (hierarchical, one hash per level), `version` 1 or 2. An empty key is the minimum.
    """
    if not key:
        return MIN_EPK
    return _epk_cached(kind, version, tuple([(type(value), value) for value in key]))


def even_boundaries(count: int, kind: str, version: int) -> list[str]:
    """Return the `count + 1` boundaries that cut the hash space into `count` equal ranges."""
    inner = []
    for i in range(1, count):
        if kind == "Hash" and version == 1:
            inner.append(_encode_number_v1(float((i << 32) // count)).hex().upper())
        else:
            inner.append(f"{i * (HASH_SPACE_V2 // count):032X}")
    return [MIN_EPK, *inner, MAX_EPK]
