"""Draws requests that no honest client sends: well-formed ones of every kind, bent in one or a few places."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.local_cosmos.model_hostile_json import RAW_JSON, dumped, json_values, names, scalars
from tests.local_cosmos.model_hostile_queries import expressions, queries, texts


@dataclass(frozen=True)
class Raw:
    """A request as it travels: the `path` is quoted already."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


DOCS = "/dbs/d/colls/c/docs"
KEY = ("x-ms-documentdb-partitionkey", '["p"]')
QUERY = ("x-ms-documentdb-isquery", "True")
BATCH = (KEY, ("x-ms-cosmos-is-batch-request", "True"), ("x-ms-cosmos-batch-atomic", "True"))
_operation = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "set", "replace", "remove", "incr", "move", "x"]) | scalars},
    optional={
        "path": st.sampled_from(
            ["/n", "/list/0", "/list/-", "/list/99999999999", "/object/a/b", "/new", "/id", "/pk", "/", ""]
        )
        | scalars,
        "value": json_values,
        "from": st.sampled_from(["/n", "/list", "/object", "/object/a", "/id"]) | scalars,
    },
)
patches = st.builds(
    lambda operations, more: dumped({"operations": operations, **more}),
    st.lists(_operation, max_size=12) | json_values,
    st.just({}) | texts.map(lambda t: {"condition": t}) | expressions.map(lambda e: {"condition": f"from c where {e}"}),
)
_batched = st.fixed_dictionaries(
    {"operationType": st.sampled_from(["Create", "Upsert", "Replace", "Delete", "Read", "Patch", "x"]) | scalars},
    optional={
        "id": st.sampled_from(["a", "b"]) | json_values,
        "resourceBody": st.just({"id": "a", "pk": "p"}) | json_values,
        "ifMatch": st.just("*") | json_values,
        "ifNoneMatch": st.just("*") | json_values,
    },
)
batches = st.lists(_batched, max_size=6).map(dumped) | st.just(dumped([{"operationType": "Read", "id": "a"}] * 101))
_document = {"id": "z", "pk": "p", "n": 1, "u": "z"}
_container = {"id": "z", "partitionKey": {"paths": ["/pk"], "kind": "Hash", "version": 2}, "defaultTtl": 60}
_replaced = {"id": "c", "partitionKey": {"paths": ["/pk"], "kind": "Hash", "version": 2}, "indexingPolicy": {}}
# Each is answered with success.
TEMPLATES: list[Raw] = [
    Raw("GET", "/", (), b""),
    Raw("GET", "/dbs", (), b""),
    Raw("POST", "/dbs", (), dumped({"id": "z"})),
    Raw("POST", "/dbs", (QUERY,), dumped({"query": "SELECT * FROM root r", "parameters": []})),
    Raw("GET", "/dbs/d", (), b""),
    Raw("DELETE", "/dbs/d", (), b""),
    Raw("GET", "/dbs/d/colls", (), b""),
    Raw("POST", "/dbs/d/colls", (("x-ms-offer-throughput", "400"),), dumped(_container)),
    Raw("GET", "/dbs/d/colls/c", (("x-ms-documentdb-populatepartitionstatistics", "True"),), b""),
    Raw("PUT", "/dbs/d/colls/c", (), dumped(_replaced)),
    Raw("DELETE", "/dbs/d/colls/c", (), b""),
    Raw("GET", "/dbs/d/colls/c/pkranges", (("a-im", "Incremental Feed"),), b""),
    Raw("GET", "/offers", (), b""),
    Raw("POST", "/offers", (QUERY,), dumped({"query": "SELECT * FROM root r", "parameters": []})),
    Raw("PUT", "/offers/OFFER", (), dumped({"content": {"offerThroughput": 500}})),
    Raw("POST", DOCS, (KEY,), dumped(_document)),
    Raw("POST", DOCS, (KEY, ("x-ms-documentdb-is-upsert", "True")), dumped(_document)),
    Raw("PUT", f"{DOCS}/a", (KEY,), dumped({**_document, "id": "a"})),
    Raw("PATCH", f"{DOCS}/a", (KEY,), dumped({"operations": [{"op": "incr", "path": "/n", "value": 1}]})),
    Raw("DELETE", f"{DOCS}/a", (KEY,), b""),
    Raw("GET", f"{DOCS}/a", (KEY,), b""),
    Raw("POST", DOCS, BATCH, dumped([{"operationType": "Upsert", "resourceBody": _document}])),
    Raw("POST", DOCS, (KEY, QUERY), dumped({"query": "SELECT * FROM c ORDER BY c.n", "parameters": []})),
    Raw("POST", DOCS, (KEY, ("x-ms-cosmos-is-query-plan-request", "True")), dumped({"query": "SELECT * FROM c"})),
    Raw("GET", DOCS, (KEY,), b""),
    Raw("GET", DOCS, (KEY, ("a-im", "Incremental Feed")), b""),
    Raw("GET", DOCS, (KEY, ("a-im", "Full-Fidelity Feed"), ("if-none-match", "*")), b""),
    Raw("POST", "/dbs/d/colls/c/operations/partitionkeydelete", (KEY,), b""),
    Raw("GET", "/dbs/d/colls/c/conflicts", (), b""),
    Raw("POST", "/dbs/d/colls/c/sprocs", (), b"{}"),
]
HEADERS = [
    "x-ms-documentdb-partitionkey", "x-ms-documentdb-isquery", "x-ms-max-item-count", "a-im", "if-none-match",
    "if-modified-since", "if-match", "x-ms-continuation", "x-ms-start-epk", "x-ms-end-epk", "prefer", "content-type",
    "x-ms-documentdb-partitionkeyrangeid", "x-ms-cosmos-is-batch-request", "x-ms-documentdb-is-upsert", "x-ms-version",
    "x-ms-offer-throughput", "x-ms-cosmos-offer-autopilot-settings", "x-ms-cosmos-is-query-plan-request", "x-ms-date",
    "x-ms-documentdb-query-enablecrosspartition", "x-ms-session-token", "x-ms-activity-id", "x-ms-indexing-directive",
    "x-ms-cosmos-intended-collection-rid", "x-ms-documentdb-populatequotainfo", "x-ms-cosmos-populateindexmetrics",
    "x-ms-documentdb-populatequerymetrics", "x-ms-documentdb-responsecontinuationtokenlimitinkb",
    "x-ms-consistency-level", "x-ms-cosmos-migrate-offer-to-autopilot",
    "x-ms-cosmos-migrate-offer-to-manual-throughput",
    "x-ms-documentdb-pre-trigger-include", "x-ms-cosmos-priority-level", "x-ms-cosmos-throughput-bucket",
    "x-ms-dedicatedgateway-max-age", "x-ms-cosmos-allow-tentative-writes", "x-ms-cosmos-changefeed-wire-format-version",
    "x-ms-consistency-level", "x-ms-read-key-type", "host", "date",
]  # fmt: skip
VALUES = [
    "", " ", "true", "True", "false", "-1", "0", "1", "9" * 20, "9" * 5000, "-" + "9" * 30, "1_000", " 1 ", "1.5",
    "1e3", "²",
    "*", '"5"', '"*"', '"' + "9" * 5000 + '"', 'W/"5"', "[]", "[{}]",
    '["p"]', '["p","q"]', '["p","q","r","s"]', '[["x"]]',
    "[null]", "[1e30]", "[-0.0]", "[1e999]", "[9007199254740993]", "[18446744073709551616]", "[true]", '["\\ud800"]',
    '["\\u0000"]', '["' + "k" * 3000 + '"]', '{"a":1}', "{", "null", "Incremental Feed", "Full-Fidelity Feed", "x-feed",
    "0:-1#9999", "0:-1#" + "9" * 5000, "0:1#2#3=4", "0:", ":", "0#", ",,,", "0:-1#-5", "9:-1#1", "FF", "", "05C1",
    "zz", "\x00ü",
    "é", "\x7f", "Thu, 01 Jan 1970 00:00:00 GMT", "Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359",
    "Thu, 99 Foo 99999 99:99:99 GMT", "Thu, 01 Jan 2020 00:00:00 -0000", "2020-01-01", "bm90IGpzb24=", "W10=",
    "bnVsbA==",
    "W1tdLDAsMCwwLG51bGxd", "W1tbIiIsIkZGIiwxXV0sMCwwLDAsbnVsbF0=", "W1tdLDAsMCwwLFtbMywxXV1d",
    "W1tdLDEsMSwxLFtbOTksbnVsbF1dXQ==",
    "return=minimal", "application/query+json",
    '{"maxThroughput": 4000}', '{"maxThroughput": true}', '{"maxThroughput": 1e30}',
    '{"maxThroughput": [1]}', "-RID:~x#RT:1", "%0d%0ax: y", "a" * 8000, "Strong", "127.0.0.1:1\\x",
]  # fmt: skip
PATHS = [
    "/", "//", "/%00", "/%ff", "/%", "/%2", "/%zz", "/dbs/", "/dbs//d", "/dbs/d/", "/DBS/d", "/dbs/%64", "/dbs/..",
    "/dbs/../..",
    "/dbs/d/colls/%2F", "/dbs/d/colls/c/docs/%2F", "/dbs/d/colls/c/docs/a%00", "/dbs/d/colls/c/docs/%0d%0ax:%20y",
    "/dbs/d/colls/c/docs/a/b", "/dbs/d/colls/c/docs/a/attachments", "/dbs/d/colls/c/docs/" + "a" * 5000,
    "/dbs/%F0%9F%90%99",
    "/dbs/d/colls/c/users", "/dbs/d/users/u/permissions", "/dbs/d/colls/c/udfs/x", "/offers/x", "/offers/%ff",
    "/offers/a/b",
    "/media/x", "/topology", "/_crossfeed", "/_crossfeed/faults", "/_crossfeed/clock", "/_crossfeed/splits",
    "/_crossfeed/x/y/z",
    "/dbs/d/colls/c/pkranges/0", "/dbs/d/colls/c/partitions", "/dbs/d/colls/c/operations",
    "/dbs/d/colls/c/operations/x",
    "/dbs/d/colls/c/conflicts/x", "/dbs/" + "x" * 300, "/dbs/d%20", "/dbs/d%3Fa", "/dbs/d?x=y", "/dbs/d/colls/c;a",
    "/a" * 500,
]  # fmt: skip
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "MERGE", "PURGE"]

hostile_json = json_values.map(dumped)
bodies = st.one_of(st.sampled_from(RAW_JSON), hostile_json, queries, patches, batches, st.binary(max_size=30))


@st.composite
def _bent_json(draw: st.DrawFn, body: bytes) -> bytes:
    """Return a JSON body with one of its values replaced."""
    value = json.loads(body)
    place, steps = value, draw(st.integers(1, 4))
    for _ in range(steps):
        keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or draw(st.booleans()):
            place[key] = draw(json_values)
            break
        place = place[key]
    if isinstance(value, dict) and draw(st.booleans()):
        value[draw(names)] = draw(json_values)
    return dumped(value)


def _fitting(template: Raw) -> st.SearchStrategy[bytes]:
    """Return bodies that get far into the handler of a request."""
    if any(name == "x-ms-cosmos-is-batch-request" for name, _ in template.headers):
        return batches
    if template.method == "PATCH":
        return patches
    if b'"query"' in template.body:
        return queries
    return _bent_json(template.body) if template.body else hostile_json


@st.composite
def requests(draw: st.DrawFn) -> Raw:
    """Return a request that differs from an honest one in one to three places."""
    template = draw(st.sampled_from(TEMPLATES))
    method, path, headers, body = template.method, template.path, dict(template.headers), template.body
    for _ in range(draw(st.integers(1, 3))):
        match draw(
            st.sampled_from(
                ["body", "body", "body", "fit", "fit", "fit", "header", "header", "header", "path", "method"]
            )
        ):
            case "body":
                body = draw(bodies)
            case "fit":
                body = draw(_fitting(template))
            case "header":
                headers[draw(st.sampled_from(HEADERS))] = draw(st.sampled_from(VALUES))
            case "path":
                path = draw(st.sampled_from(PATHS))
            case _:
                method = draw(st.sampled_from(METHODS))
    return Raw(method, path, tuple(headers.items()), body)
