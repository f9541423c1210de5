"""Shows what the embedded Cosmos DB holds in memory while documents are written over and over."""

from __future__ import annotations

import sys
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, assert_never

import orjson

from tests.bench.cosmos import BATCH, DOCS, DOCUMENTS, ITEMS, KEYS, RANGES, batch, create_container, document, upsert
from tests.bench.server import server_process
from tests.bench.wire import Signer, drive, expect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.server import ServerProcess
    from tests.bench.wire import Answer, Script

SAMPLES = 20
CONNECTIONS = 8


class Load(Enum):
    """What is written; there are never more than `DOCUMENTS` documents."""

    MIXED = "mixed"  # the same documents, half of them in batches
    TTL = "ttl"  # the same in a container with TTL, where every other document soon expires
    HISTORY = "history"  # the same while all versions are kept for the change feed
    DELETES = "deletes"  # each document is deleted and created again
    KEYS = "keys"  # every document has a new partition key, and an old document is deleted for it
    PATCHES = "patches"  # documents are patched, and read by a query now and then


class Sample(NamedTuple):
    """Memory of the server in bytes after so many writes."""

    writes: int
    resident: int


class _Write(NamedTuple):
    """A request, how many writes it is, and the statuses that answer it."""

    request: bytes
    writes: int
    statuses: tuple[int, ...]


def measured(load: Load, writes: int) -> list[Sample]:
    """Write to a fresh server and return its memory: at first with all documents written once, then while writing.

    Raises:
        WrongAnswerError: the server answered something wrong.
        OSError: the system does not tell the memory of a process.
    """
    with server_process() as server:
        signer = Signer(server.endpoint, server.key)
        create_container(server, {"defaultTtl": 3600} if load is Load.TTL else None)
        if load is Load.HISTORY:
            _keep_history(server, signer)
        _write(server, [islice(_first(signer), None)])
        samples = [_sample(server, 0)]
        streams = [_writes(load, signer, part) for part in range(CONNECTIONS)]
        share = writes // SAMPLES // CONNECTIONS
        for number in range(1, SAMPLES + 1):
            _write(server, [_about(share, stream) for stream in streams])
            samples.append(_sample(server, number * share * CONNECTIONS))
            print(f"{load.value}: {samples[-1].writes:,} writes, {samples[-1].resident:,} bytes", file=sys.stderr)
        return samples


def _sample(server: ServerProcess, writes: int) -> Sample:
    resident = server.resident_bytes()
    if resident is None:
        raise OSError("this system does not tell the memory of a process")
    return Sample(writes, resident)


def _write(server: ServerProcess, streams: list[Iterator[_Write]]) -> None:
    def script(stream: Iterator[_Write]) -> Script:
        for write in stream:
            answer: Answer = yield write.request
            expect(answer, *write.statuses)

    drive(server.endpoint, [script(stream) for stream in streams])


def _about(writes: int, stream: Iterator[_Write]) -> Iterator[_Write]:
    done = 0
    for write in stream:
        yield write
        done += write.writes
        if done >= writes:
            return


def _keep_history(server: ServerProcess, signer: Signer) -> None:
    def script() -> Script:
        for number in range(RANGES):
            headers = {
                "A-IM": "Full-Fidelity Feed",
                "If-None-Match": "*",
                "x-ms-cosmos-changefeed-wire-format-version": "2021-09-15",
                "x-ms-documentdb-partitionkeyrangeid": str(number),
            }
            expect((yield signer.request("GET", f"/{DOCS}", "docs", ITEMS, headers=headers)), 304)

    drive(server.endpoint, [script()])


def _first(signer: Signer) -> Iterator[_Write]:
    for key in range(KEYS):
        yield _Write(batch(signer, key), BATCH, (200,))


def _writes(load: Load, signer: Signer, part: int) -> Iterator[_Write]:
    """Yield writes without end; each connection has its own documents."""
    keys = range(part, KEYS, CONNECTIONS)
    match load:
        case Load.MIXED | Load.HISTORY:
            return _rewriting(signer, keys, {})
        case Load.TTL:
            return _rewriting(signer, keys, {"ttl": 1})
        case Load.DELETES:
            return _recreating(signer, keys)
        case Load.KEYS:
            return _moving(signer, part)
        case Load.PATCHES:
            return _patching(signer, keys)
        case _:
            assert_never(load)


def _rewriting(signer: Signer, keys: range, more: dict[str, object]) -> Iterator[_Write]:
    batches = [_Write(batch(signer, key), BATCH, (200,)) for key in keys]
    singles = [
        [
            _Write(upsert(signer, n, more=more if n % 2 else None), 1, (200, 201))
            for n in range(key * BATCH, (key + 1) * BATCH)
        ]
        for key in keys
    ]
    while True:
        for hundred, ones in zip(batches, singles, strict=True):
            yield hundred
            yield from ones


def _recreating(signer: Signer, keys: range) -> Iterator[_Write]:
    numbers = [n for key in keys for n in range(key * BATCH, (key + 1) * BATCH)]
    deletes = [_Write(_point(signer, "DELETE", n, f"key-{n // BATCH}"), 1, (204,)) for n in numbers]
    creates = [_Write(upsert(signer, n), 1, (201,)) for n in numbers]
    while True:
        for delete, create in zip(deletes, creates, strict=True):
            yield delete
            yield create


def _moving(signer: Signer, part: int) -> Iterator[_Write]:
    own = [(n, f"key-{n // BATCH}") for n in range(part, DOCUMENTS, CONNECTIONS)]
    moved = 0
    while True:
        for index, (number, old) in enumerate(own):
            moved += 1
            new = f"moved-{part}-{moved}"
            own[index] = number, new
            yield _Write(_point(signer, "DELETE", number, old), 1, (204,))
            yield _Write(upsert(signer, number, more={"pk": new}), 1, (201,))


def _patching(signer: Signer, keys: range) -> Iterator[_Write]:
    body = orjson.dumps({"operations": [{"op": "incr", "path": "/version", "value": 1}]})
    text = orjson.dumps({"query": "SELECT VALUE c.balance FROM c WHERE c.version >= 0", "parameters": []})
    while True:
        for key in keys:
            for number in range(key * BATCH, (key + 1) * BATCH):
                yield _Write(_point(signer, "PATCH", number, f"key-{key}", body), 1, (200,))
            headers = {
                "x-ms-documentdb-isquery": "True",
                "x-ms-documentdb-partitionkey": f'["key-{key}"]',
                "Content-Type": "application/query+json",
            }
            yield _Write(signer.request("POST", f"/{DOCS}", "docs", ITEMS, text, headers), 0, (200,))


def _point(signer: Signer, verb: str, number: int, key: str, body: bytes = b"") -> bytes:
    link = f"{DOCS}/{document(number)['id']}"
    headers = {"x-ms-documentdb-partitionkey": f'["{key}"]', "Content-Type": "application/json"}
    return signer.request(verb, f"/{link}", "docs", link, body, headers)
