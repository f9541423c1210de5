"""Whatever is asked, rules of every kind meet it without a defect."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote

from hypothesis import HealthCheck, given, settings

from core.local.cosmos.faults import (
    Budget,
    ByVersions,
    Constant,
    Cut,
    Delay,
    Down,
    Every,
    Faults,
    Lag,
    Match,
    Refuse,
    Rule,
)
from core.local.cosmos.faults.inject import Broken, Injector
from core.local.cosmos.messages import Request
from core.local.cosmos.operations.routes import Router
from core.local.cosmos.state.account import Account
from core.local.cosmos.wire.application import guarded
from tests.local_cosmos.model_hostile import requests
from tests.local_cosmos.model_wire import Anyone

if TYPE_CHECKING:
    from tests.local_cosmos.model_hostile import Raw


EVERYTHING = [
    Rule(do=Refuse(status=503), probability=0.1),
    Rule(do=Down(), on=Match(range_id="1"), probability=0.1),
    Rule(do=Budget(ru_per_second=1e6, burst=1e6)),
    Rule(do=Lag(behind=ByVersions(least=0, most=5))),
    Rule(do=Delay(duration=Constant(seconds=0.0)), per="subject", every=Every(first=1, of=2)),
    Rule(do=Cut(moment="middle"), on=Match(partition_key=("p",), header="if-match", id="a")),
    Rule(do=Refuse(status=408, moment="after"), probability=0.1),
]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests())
def test_no_request_meets_a_defect_under_faults(request: Raw) -> None:
    try:
        path = [unquote(part, errors="strict") for part in request.path.split("/") if part]
    except UnicodeDecodeError:
        return
    headers = {name.lower(): value for name, value in request.headers}
    outcome = asyncio.run(under_everything().answer(Request(request.method, path, headers, request.body)))
    assert isinstance(outcome, Broken) or outcome.status != 500


def under_everything() -> Injector:
    account = Account()
    account.create_database({"id": "d"}, None, None)
    definition = {"paths": ["/pk"], "kind": "Hash", "version": 2}
    account.create_container("d", {"id": "c", "partitionKey": definition}, 12_000, None)
    faults = Faults(lambda: account, seed=1)
    for rule in EVERYTHING:
        faults.add(rule)
    router = Router(account, Anyone(), lambda request: "http://127.0.0.1/")  # type: ignore[arg-type]
    return Injector(faults, partial(guarded, router.handle))
