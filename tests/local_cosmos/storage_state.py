"""What an account holds, as plain values that can be compared: in memory, and as its clients see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from tests.local_cosmos.model_wire import CallWire

if TYPE_CHECKING:
    from core.local.cosmos.state.account import Account
    from core.local.cosmos.state.container import Container
    from core.local.cosmos.state.partition import PhysicalPartition
    from tests.local_cosmos.model_wire import Answer

Bookmarks = dict[str, set[int]]


def difference(left: Any, right: Any, where: str = "") -> str:
    """Return where two values differ first and how, nothing if they are equal; quicker than a diff of everything."""
    if left == right:
        return ""
    if isinstance(left, dict) and isinstance(right, dict) and list(left) == list(right):
        return next(filter(None, (difference(left[key], right[key], f"{where}.{key}") for key in left)))
    if isinstance(left, list | tuple) and isinstance(right, list | tuple) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return next(filter(None, (difference(*pair, f"{where}[{index}]") for index, pair in pairs)))
    return f"{where}: {left!r:.500} is not {right!r:.500}"


def in_memory(account: Account) -> dict[str, Any]:
    """Return all that the account holds, orders included; counters may be ahead of what was ever given out."""
    return {
        "offset": account.clock.offset,
        "offers": list(account.offers.items()),
        "databases": [
            (name, database.rid_bytes, database.properties, [_container(c) for c in database.containers.values()])
            for name, database in account.databases.items()
        ],
    }


def _container(container: Container) -> dict[str, Any]:
    kept = ("properties", "rid_bytes", "self_link", "path", "default_ttl", "keeps_history", "next_range", "generation")
    partitions = [_partition(partition) for partition in container.partitions]
    return {**{name: getattr(container, name) for name in kept}, "partitions": partitions}


def _partition(partition: PhysicalPartition) -> dict[str, Any]:
    kept = ("id", "minimum", "maximum", "parents", "lsn", "history_start", "generation", "size")
    document = ("id", "key", "epk", "raw", "etag", "ts", "rid", "lsn", "expires", "unique", "live")
    change = ("lsn", "expired", "time", "new", "old", "previous_lsn")
    return {
        **{name: getattr(partition, name) for name in kept},
        "log": [[getattr(d, name) for name in document] for d in partition.log if d.live],
        "scan": [d.rid for d in partition.scan()],
        "logical": {key: sorted(documents) for key, documents in partition.logical.items()},
        "unique": {key: d.rid for key, d in partition.unique.items()},
        "history": [
            (*[getattr(entry, name) for name in change], entry.document.key, entry.document.epk)
            for entry in partition.history
        ],
    }


async def as_seen(account: Account, bookmarks: Bookmarks) -> list[Any]:
    """Return the answers to every kind of read; `bookmarks` are LSNs to read feeds from, by container."""
    wire = CallWire(account)
    seen: list[Any] = [_told(await wire.send("GET", path, {})) for path in (["dbs"], ["offers"])]
    for database in account.databases.values():
        seen.append(_told(await wire.send("GET", ["dbs", database.name, "colls"], {})))
        for name, container in database.containers.items():
            path = ["dbs", database.name, "colls", name]
            statistics = {"x-ms-documentdb-populatepartitionstatistics": "True"}
            seen.append(_told(await wire.send("GET", path, statistics)))
            seen += [_told(await wire.send("GET", [*path, "pkranges"], {"if-none-match": g})) for g in ("", '"1"')]
            for query in ("SELECT * FROM c", "SELECT VALUE c._rid FROM c ORDER BY c.n"):
                seen.append(await _query(wire, path, query))
            for partition in container.partitions:
                for lsn in sorted(bookmarks.get(name, set()) | {0}):
                    for mode in ("Incremental Feed", *["Full-Fidelity Feed"] * container.keeps_history):
                        seen.append(await _feed(wire, path, partition.id, mode, lsn))
    return seen


def _told(answer: Answer) -> Any:
    return answer.status, dict(answer.headers), answer.body


async def _query(wire: CallWire, path: list[str], query: str) -> list[Any]:
    headers = {
        "x-ms-documentdb-isquery": "True",
        "x-ms-documentdb-query-enablecrosspartition": "True",
        "x-ms-max-item-count": "2",
        "x-ms-start-epk": "",
        "x-ms-end-epk": "FF",
    }
    answers = []
    while True:
        answer = await wire.send("POST", [*path, "docs"], headers, orjson.dumps({"query": query}))
        answers.append(_told(answer))
        assert answer.status == 200
        if "x-ms-continuation" not in answer.headers:
            return answers
        headers["x-ms-continuation"] = answer.headers["x-ms-continuation"]


async def _feed(wire: CallWire, path: list[str], range_id: str, mode: str, lsn: int) -> list[Any]:
    headers = {"a-im": mode, "x-ms-documentdb-partitionkeyrangeid": range_id, "x-ms-max-item-count": "2"}
    etag = f'"{lsn}"'
    answers = []
    while True:
        answer = await wire.send("GET", [*path, "docs"], {**headers, "if-none-match": etag})
        answers.append(_told(answer))
        if answer.status != 200:
            return answers
        etag = answer.headers["etag"]
