"""Measures the embedded Cosmos DB: single upserts, transactional batches, the change feed."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from itertools import count
from statistics import median, quantiles
from typing import TYPE_CHECKING

import orjson

from tests.bench.server import ServerProcess, server_process
from tests.bench.wire import Answer, Signer, WrongAnswerError, drive, expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.wire import Script

DOCUMENTS = 10_000
BATCH = 100
KEYS = DOCUMENTS // BATCH
CONNECTIONS = 16
ROUNDS = 5
RANGES = 2
PAGE = 100  # what clients get that do not ask for more
DOCS = "dbs/bench/colls/items/docs"
ITEMS = "dbs/bench/colls/items"
_PADDING = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore magna"


def document(number: int, version: int = 0) -> dict[str, object]:
    """Return a document of about 300 bytes as the client sends it."""
    return {
        "id": f"document-{number}",
        "pk": f"key-{number // BATCH}",
        "version": version,
        "name": f"Customer {number}",
        "address": {"street": "Main Street 1", "city": "Springfield", "tags": ["home", "billing"]},
        "balance": number * 1.25,
        "note": _PADDING,
    }


def create_container(server: ServerProcess, properties: dict[str, object] | None = None) -> None:
    """Create the container that is measured, with `RANGES` physical partitions."""
    signer = Signer(server.endpoint, server.key)
    settings = {"id": "items", "partitionKey": {"paths": ["/pk"], "kind": "Hash", "version": 2}, **(properties or {})}
    throughput = {"x-ms-offer-throughput": str(RANGES * 6000)}

    def script() -> Script:
        expect((yield signer.request("POST", "/dbs", "dbs", "", b'{"id":"bench"}')), 201)
        body = orjson.dumps(settings)
        expect((yield signer.request("POST", "/dbs/bench/colls", "colls", "dbs/bench", body, throughput)), 201)

    drive(server.endpoint, [script()])


def upsert(signer: Signer, number: int, version: int = 0, *, more: dict[str, object] | None = None) -> bytes:
    """Return the request that upserts one document, with `more` properties than it has."""
    body = {**document(number, version), **(more or {})}
    headers = {
        "x-ms-documentdb-is-upsert": "True",
        "x-ms-documentdb-partitionkey": f'["{body["pk"]}"]',
        "Content-Type": "application/json",
    }
    return signer.request("POST", f"/{DOCS}", "docs", ITEMS, orjson.dumps(body), headers)


def batch(signer: Signer, key: int, version: int = 0) -> bytes:
    """Return the request that upserts the hundred documents of one partition key."""
    operations = [
        {"operationType": "Upsert", "resourceBody": document(number, version)}
        for number in range(key * BATCH, (key + 1) * BATCH)
    ]
    headers = {
        "x-ms-cosmos-is-batch-request": "True",
        "x-ms-cosmos-batch-atomic": "True",
        "x-ms-documentdb-partitionkey": f'["key-{key}"]',
        "Content-Type": "application/json",
    }
    return signer.request("POST", f"/{DOCS}", "docs", ITEMS, orjson.dumps(operations), headers)


def feed_page(signer: Signer, range_id: str, after: bytes, container: str = ITEMS) -> bytes:
    """Return the request for the page of a range's feed that follows an ETag, the first one if it is empty."""
    headers = {
        "A-IM": "Incremental Feed",
        "x-ms-max-item-count": str(PAGE),
        "x-ms-documentdb-partitionkeyrangeid": range_id,
    }
    if after:
        headers["If-None-Match"] = after.decode()
    return signer.request("GET", f"/{container}/docs", "docs", container, b"", headers)


@dataclass
class Figure:
    """One quantity over all rounds: documents per second of each, all latencies in seconds, server CPU seconds."""

    name: str
    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    documents: int = 0

    @property
    def per_second(self) -> float:
        """The median of the rounds."""
        return median(self.rates)

    @property
    def cpu_per_thousand(self) -> float | None:
        """Server CPU seconds per 1,000 requests, None where the system does not tell."""
        return 1000 * sum(self.cpu) / len(self.latencies) if self.cpu else None

    def latency_ms(self, percent: int) -> float:
        """Return a percentile of the latencies."""
        return 1000 * quantiles(self.latencies, n=100)[percent - 1]


class CosmosBench:
    """Measures one server; every answer's status is checked."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._feed_sizes: dict[str, int] = {}
        self.upserts = Figure("upserts_per_s")
        self.batched = Figure("batched_documents_per_s")
        self.feed = Figure("feed_documents_per_s")

    @property
    def figures(self) -> list[Figure]:
        """All that is measured."""
        return [self.upserts, self.batched, self.feed]

    def run(self, seconds: float, rounds: int = ROUNDS) -> None:
        """Measure each figure for `seconds`, in alternating rounds.

        Raises:
            WrongAnswerError: the server answered something wrong.
        """
        create_container(self._server)
        for number in range(rounds):
            signer = Signer(self._server.endpoint, self._server.key)
            singles = [upsert(signer, n, number) for n in range(DOCUMENTS)]
            batches = [batch(signer, key, number) for key in range(KEYS)]
            if number == 0:
                self._fill(batches)
            self._round(self.upserts, seconds / rounds, _cycling(singles, _one_upserted))
            self._round(self.batched, seconds / rounds, _cycling(batches, _batch_upserted), CONNECTIONS // 4)
            self._round(self.feed, seconds / rounds, self._reading(signer), 2 * RANGES)
            line = ", ".join(f"{figure.name} {figure.rates[-1]:,.0f}" for figure in self.figures)
            print(f"round {number + 1} of {rounds}: {line}", file=sys.stderr)

    def _fill(self, batches: list[bytes]) -> None:
        def script() -> Script:
            for request in batches:
                _batch_upserted((yield request))

        drive(self._server.endpoint, [script()])

    def _round(
        self, figure: Figure, seconds: float, script: Callable[[Figure], Script], connections: int = CONNECTIONS
    ) -> None:
        before = figure.documents
        cpu = self._server.cpu_seconds()
        driven = drive(self._server.endpoint, [script(figure) for _ in range(connections)], seconds)
        after = self._server.cpu_seconds()
        figure.rates.append((figure.documents - before) / driven.elapsed)
        figure.latencies += driven.latencies
        if cpu is not None and after is not None:
            figure.cpu.append(after - cpu)

    def _reading(self, signer: Signer) -> Callable[[Figure], Script]:
        numbers = count()

        def script(figure: Figure) -> Script:
            range_id = str(next(numbers) % RANGES)
            while True:
                found = 0
                answer = yield feed_page(signer, range_id, b"")
                while answer.status != 304:
                    documents = _page_read(answer)
                    found += documents
                    figure.documents += documents
                    answer = yield feed_page(signer, range_id, answer.header(b"etag"))
                self._feed_sizes[range_id] = found
                if len(self._feed_sizes) == RANGES and sum(self._feed_sizes.values()) != DOCUMENTS:
                    msg = f"the ranges' feeds hold {self._feed_sizes}, together not {DOCUMENTS} documents"
                    raise WrongAnswerError(msg)

        return script


def _cycling(requests: list[bytes], check: Callable[[Answer], int]) -> Callable[[Figure], Script]:
    """Return scripts that together send the requests over and over."""
    numbers = count()

    def script(figure: Figure) -> Script:
        while True:
            answer = yield requests[next(numbers) % len(requests)]
            figure.documents += check(answer)

    return script


def _one_upserted(answer: Answer) -> int:
    expect(answer, 200)
    return 1


def _batch_upserted(answer: Answer) -> int:
    expect(answer, 200)
    written = answer.body.count(b'"statusCode":200') + answer.body.count(b'"statusCode":201')
    if written != BATCH:
        msg = f"a batch wrote {written} documents"
        raise WrongAnswerError(msg)
    return written


def _page_read(answer: Answer) -> int:
    expect(answer, 200)
    documents = answer.body.count(b'"_lsn":')
    if documents != int(answer.header(b"x-ms-item-count")):
        msg = f"a page of {documents} documents says that it has {answer.header(b'x-ms-item-count')!r}"
        raise WrongAnswerError(msg)
    return documents


def measured(seconds: float, rounds: int = ROUNDS) -> list[Figure]:
    """Start a server, measure it and return the figures.

    Raises:
        WrongAnswerError: the server answered something wrong.
    """
    with server_process() as server:
        bench = CosmosBench(server)
        bench.run(seconds, rounds)
        return bench.figures
