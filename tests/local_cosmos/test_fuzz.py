"""Whatever is asked: a status and a body that Cosmos DB has, at once, and a refusal changes nothing."""

from __future__ import annotations

import asyncio
import logging
import re
from time import thread_time
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from core.local.cosmos.errors import CODES
from core.local.cosmos.operations.routes import Router
from core.local.cosmos.state.account import Account
from core.local.cosmos.wire.application import Application
from tests.local_cosmos.model_hostile import DOCS, KEY, QUERY, Raw, requests
from tests.local_cosmos.model_hostile_json import dumped
from tests.local_cosmos.model_wire import Anyone

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE = 3.0  # seconds of processor time
GOOD = frozenset({200, 201, 204, 207, 304})
REFUSALS = frozenset({400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 415, 431})
# A header that could end itself is told apart from one that cannot by the bytes alone.
SAFE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class Recorder(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


@pytest.fixture(scope="module")
def log() -> Iterator[Recorder]:
    recorder = Recorder()
    logging.getLogger().addHandler(recorder)
    yield recorder
    logging.getLogger().removeHandler(recorder)


class Target:
    """An account with a container of two partitions and three documents, and the application that serves it."""

    def __init__(self) -> None:
        self.account = account = Account()
        account.create_database({"id": "d"}, None, None)
        definition = {"paths": ["/pk"], "kind": "Hash", "version": 2}
        body = {"id": "c", "partitionKey": definition, "uniqueKeyPolicy": {"uniqueKeys": [{"paths": ["/u"]}]}}
        self.container = account.create_container("d", body, 12_000, None)
        self.application = Application(Router(account, Anyone(), lambda request: "http://127.0.0.1/").handle)  # type: ignore[arg-type]
        for name in ("a", "b", "c"):
            document: dict[str, Any] = {
                "id": name,
                "pk": "p",
                "n": 1,
                "u": name,
                "text": "a" * 200,
                "list": [1, [2], {}],
                "object": {"a": {}},
            }
            assert self.ask(Raw("POST", DOCS, (KEY,), dumped(document)))[0] == 201

    def ask(self, raw: Raw) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        return asyncio.run(self._ask(raw))

    async def _ask(self, raw: Raw) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        sent: list[Any] = []
        offer = next(iter(self.account.offers.values()), {"_rid": "none"})["_rid"]
        path = raw.path.replace("OFFER", offer).partition("?")[0]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": raw.body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in raw.headers]
        scope = {"type": "http", "method": raw.method, "raw_path": path.encode(), "headers": headers}
        await self.application(scope, receive, send)
        return sent[0]["status"], sent[0]["headers"], sent[1]["body"]

    def state(self) -> object:
        """Return all that clients can find out, as it is."""
        return [
            (
                orjson.dumps(database.properties),
                [
                    (
                        orjson.dumps(container.properties),
                        container.default_ttl,
                        [
                            (
                                p.id,
                                p.minimum,
                                p.maximum,
                                p.lsn,
                                p.size,
                                len(p.history),
                                [d.raw for d in p.by_rid.values()],
                            )
                            for p in container.partitions
                        ],
                    )
                    for container in database.containers.values()
                ],
            )
            for database in self.account.databases.values()
        ] + [orjson.dumps(offer) for offer in self.account.offers.values()]


def check(raw: Raw, log: Recorder) -> None:
    target = Target()
    before = target.state()
    log.messages.clear()
    began = thread_time()
    status, headers, body = target.ask(raw)
    assert thread_time() - began < DEADLINE, "it took too long"
    assert log.messages == []
    assert status in GOOD | REFUSALS, (status, body)
    for name, value in headers:
        assert SAFE.fullmatch(name), name
        assert SAFE.fullmatch(value), value
    if status in GOOD:
        if body and status not in {204, 304}:
            orjson.loads(body)
        return
    if raw.method != "HEAD":
        answer = orjson.loads(body)
        assert answer["code"] == CODES[status]
        assert isinstance(answer["message"], str)
        assert "Traceback" not in answer["message"]
    assert target.state() == before, "a refusal changed something"
    query = dumped({"query": "SELECT VALUE c.id FROM c ORDER BY c.n", "parameters": []})
    status, _, body = target.ask(Raw("POST", DOCS, (KEY, QUERY), query))
    assert (status, orjson.loads(body)["Documents"]) == (200, ["a", "b", "c"])


@seed(20260103)
@settings(
    max_examples=150, suppress_health_check=list(HealthCheck), database=None, phases=(Phase.explicit, Phase.generate)
)
@given(requests())
def test_a_hostile_request_is_refused_and_changes_nothing(log: Recorder, raw: Raw) -> None:
    check(raw, log)


@pytest.mark.chaos
@pytest.mark.timeout(400)
@settings(max_examples=8000, suppress_health_check=list(HealthCheck))
@given(requests())
def test_a_hostile_request_is_refused_and_changes_nothing_at_length(log: Recorder, raw: Raw) -> None:
    check(raw, log)
