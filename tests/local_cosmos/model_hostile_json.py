"""Draws JSON that no honest client sends."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

DEEP = [127, 128, 255, 500, 1024, 5000, 100_000]
NUMBERS = [
    0, -1, 1, 255, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**30, 10**400,
    -0.0, 1.5, 1e15, 1e21, 1e300, 1.7976931348623157e308, 5e-324, 10**4000,
]  # fmt: skip
TEXTS = [
    "", " ", "a", "p", "*", "true", "-1", "0", "null", "\x00", "a\x00b", "\r\nx-evil: 1", "/", "\\", "?", "#",
    "%2F", "%",
    "..", ".", "../..", "é", "🐙", "\u202e", "\ud800", "a" * 255, "a" * 256, "a" * 1023, "a" * 1024, "é" * 512,
    "a" * 3000, "x ", " x", "\t", "\x7f", "\u2028", "id'", 'id"', "${jndi}", "9" * 5000, "Infinity", "NaN", "1e999",
]  # fmt: skip
RAW_JSON = [
    b"", b" ", b"{", b"[", b'"', b"nul", b"NaN", b"[NaN]", b"Infinity", b'{"id":NaN}', b'{"id":1e999}', b"\x00",
    b"\xff\xfe",
    b'{"id":"\xff"}', b'{"id":"\\ud800"}', b'{"id":"a","id":"b"}', b"\xef\xbb\xbf{}", b'{"id":"a"}x', b"'a'",
    b"{'id':1}",
    b'{"id":"a",}', b"1", b'"a"', b"null", b"true", b"[]", b"{}", b"[[]]", b"[{}]", b'[{"operationType":null}]',
]  # fmt: skip
RAW_JSON += [b"[" * n + b"]" * n for n in DEEP] + [b'{"a":' * n + b"1" + b"}" * n for n in DEEP]
RAW_JSON += [b'{"id":"a","pk":"p","x":' + b"[" * n + b"]" * n + b"}" for n in (100, 127, 200, 250, 253, 254, 255, 500)]

scalars = st.sampled_from([None, True, False, *NUMBERS, *TEXTS])
names = st.sampled_from(
    [
        "id", "pk", "n", "u", "ttl", "_ts", "_rid", "_etag", "query", "parameters", "name", "value", "operations", "op",
        "path", "from", "condition", "operationType", "resourceBody", "ifMatch", "ifNoneMatch", "partitionKey", "paths",
        "kind", "version", "defaultTtl", "uniqueKeyPolicy", "uniqueKeys", "indexingPolicy", "indexingMode",
        "includedPaths",
        "excludedPaths", "compositeIndexes", "automatic", "conflictResolutionPolicy", "content", "offerThroughput",
        "offerAutopilotSettings", "maxThroughput", "offerResourceId", "", "__proto__", "\x00", "a" * 300,
    ]
)  # fmt: skip
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4), max_leaves=10
)


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()
