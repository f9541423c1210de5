"""Answers queries over documents, and over the account's own resources."""

from __future__ import annotations

from base64 import b64encode
from time import time
from typing import TYPE_CHECKING, Any

import orjson

from core.local.cosmos.errors import bad_request
from core.local.cosmos.messages import Request, Response, json_response
from core.local.cosmos.operations.targets import Target, check_session, logical_partition, target_of
from core.local.cosmos.sql.computed import compile_computed
from core.local.cosmos.sql.evaluate import CONTEXT
from core.local.cosmos.sql.filters import partition_key_of
from core.local.cosmos.sql.paging import MAX_TOKEN_BYTES, Reading, decode
from core.local.cosmos.sql.parser import too_deep
from core.local.cosmos.sql.plan import query_plan
from core.local.cosmos.sql.program import Program, compile_query
from core.local.cosmos.sql.rules import check_order
from core.local.cosmos.sql.signature import Context

if TYPE_CHECKING:
    from core.local.cosmos.sql.computed import Computed
    from core.local.cosmos.state.container import Container

DEFAULT_PAGE = 100
NO_LIMIT = 1 << 30
CROSS_PARTITION = (
    "Cross partition query is required but disabled. Please set x-ms-documentdb-query-enablecrosspartition to true, "
    "specify x-ms-documentdb-partitionkey, or revise your query to avoid this exception."
)

_NEEDS_PLAN = (
    "The provided cross partition query can not be directly served by the gateway. This is a first chance (internal) "
    "exception that all newer clients will know how to handle gracefully. This exception is traced, but unless you see "
    "it bubble up as an exception (which only happens on older SDK clients), then you can safely ignore this message."
)
_METRICS = (
    "totalExecutionTimeInMs=0.10;queryCompileTimeInMs=0.01;queryLogicalPlanBuildTimeInMs=0.01;"
    "queryPhysicalPlanBuildTimeInMs=0.01;queryOptimizationTimeInMs=0.00;VMExecutionTimeInMs=0.05;"
    "indexLookupTimeInMs=0.00;documentLoadTimeInMs=0.01;systemFunctionExecuteTimeInMs=0.00;"
    "userFunctionExecuteTimeInMs=0.00;retrievedDocumentCount={retrieved};retrievedDocumentSize={read};"
    "outputDocumentCount={count};outputDocumentSize={size};writeOutputTimeInMs=0.00;indexUtilizationRatio=1.00"
)


def run(request: Request, container: Container) -> Response:
    """Answer a query.

    Raises:
        CosmosError: 400 for a query that is not valid or would need the cross-partition header.
    """
    program, environment = _program(request.json_object(), container)
    target = _target(request, program, environment, container)
    return _answer(request, program, environment, target, container)


def reads(request: Request, container: Container) -> Target:
    """Return what a query would read.

    Raises:
        CosmosError: 400 for a query that is refused.
    """
    return _target(request, *_program(request.json_object(), container), container)


def _target(request: Request, program: Program, environment: dict[str, Any], container: Container) -> Target:
    check_order(program.query, container.properties["indexingPolicy"])
    target = target_of(request, container)
    if not target.scoped:
        allowed = request.flag("x-ms-documentdb-query-enablecrosspartition")
        if allowed and not program.streams:
            raise bad_request(_NEEDS_PLAN, 1004)
        key = partition_key_of(program.query, environment, container.key_definition.paths)
        if key is not None:
            target = logical_partition(key, container)
        elif not allowed:
            raise bad_request(CROSS_PARTITION)
    return target


def read_all(request: Request, container: Container) -> Response:
    """Answer a read of all documents.

    Raises:
        CosmosError: 400 for a continuation that is not valid.
    """
    program, environment = compile_query("SELECT * FROM c"), _environment(container.clock.now())
    return _answer(request, program, environment, target_of(request, container), container)


def _answer(
    request: Request, program: Program, environment: dict[str, Any], target: Target, container: Container
) -> Response:
    for partition in target.partitions:
        check_session(request, partition)
    resume = decode(request.headers.get("x-ms-continuation"))
    limit = request.number("x-ms-documentdb-responsecontinuationtokenlimitinkb")
    token_bytes = 2 * MAX_TOKEN_BYTES if limit is None or limit < 1 else limit * 1024
    try:
        page = Reading(program, environment, target, page_size(request), resume, token_bytes).page()
    except RecursionError as error:
        raise too_deep() from error
    count = str(len(page.rows))
    rid = container.properties["_rid"]
    body = b'{"_rid":"%b","Documents":[%b],"_count":%d}' % (rid.encode(), b",".join(page.rows), len(page.rows))
    headers = {
        "x-ms-item-count": count,
        "x-ms-session-token": ",".join(f"{partition.id}:-1#{partition.lsn}" for partition in target.partitions),
        "x-ms-alt-content-path": container.path,
        "x-ms-content-path": rid,
    }
    if target.partitions:
        headers["x-ms-documentdb-partitionkeyrangeid"] = target.partitions[0].id
        headers["lsn"] = str(target.partitions[0].lsn)
    if page.token is not None:
        headers["x-ms-continuation"] = page.token
    if request.flag("x-ms-documentdb-populatequerymetrics"):
        # A count is read from the index alone.
        counts = bool(program.aggregates) and all(name == "COUNT" for name, _ in program.aggregates)
        retrieved, read = (0, 0) if counts else (len(page.rows), len(body))
        metrics = _METRICS.format(count=count, retrieved=retrieved, read=read, size=len(body))
        headers["x-ms-documentdb-query-metrics"] = metrics
    if request.flag("x-ms-cosmos-populateindexmetrics"):
        headers["x-ms-cosmos-index-utilization"] = _index_metrics(container)
    return Response(200, body, headers, 2.3 + 0.05 * len(page.rows) + len(body) / 10240)


def page_size(request: Request) -> int:
    """Return how many results a page may hold.

    Raises:
        CosmosError: 400 for a page size that is no integer.
    """
    limit = request.number("x-ms-max-item-count")
    if limit is None:
        return DEFAULT_PAGE
    return limit if limit > 0 else NO_LIMIT


def _index_metrics(container: Container) -> str:
    path = f"{container.properties['partitionKey']['paths'][0]}/?"
    used = {"FilterExpression": "", "IndexSpec": path, "IndexImpactScore": "High"}
    metrics: dict[str, Any] = {"UtilizedSingleIndexes": [used], "PotentialSingleIndexes": []}
    metrics |= {"UtilizedCompositeIndexes": [], "PotentialCompositeIndexes": []}
    return b64encode(orjson.dumps(metrics)).decode()


def _environment(now: float) -> dict[str, Any]:
    return {CONTEXT: Context(int(now * 10_000_000))}


def _program(body: dict[str, Any], container: Container | None = None) -> tuple[Program, dict[str, Any]]:
    text, parameters = body.get("query"), body.get("parameters") or []
    if not isinstance(text, str):
        raise bad_request("The request lacks the text of its query.")
    if not isinstance(parameters, list) or not all(isinstance(p, dict) and "name" in p for p in parameters):
        raise bad_request("The parameters of the query are not valid.")
    computed: Computed = container.computed if container is not None else ()
    program = compile_computed(text, computed) if computed else compile_query(text)
    environment = {str(p["name"]): p.get("value") for p in parameters}
    for name in sorted(program.parameters - environment.keys()):
        message = f"The parameter {name} has no value."
        raise bad_request(message)
    return program, environment | _environment(time() if container is None else container.clock.now())


def plan(request: Request, container: Container) -> Response:
    """Answer a request for a query plan.

    Raises:
        CosmosError: 400 for a query that is not valid.
    """
    program, environment = _program(request.json_object(), container)
    check_order(program.query, container.properties["indexingPolicy"])
    key = partition_key_of(program.query, environment, container.key_definition.paths)
    epk = None if key is None else container.key_definition.epk(key)
    try:
        answer = query_plan(program, environment, epk)
    except RecursionError as error:
        raise too_deep() from error
    return json_response(200, answer, {"x-ms-alt-content-path": container.path})


def filter_resources(body: dict[str, Any], items: list[dict[str, Any]]) -> list[Any]:
    """Return the results of a query over databases, containers or offers.

    Raises:
        CosmosError: 400 for a query that is not valid.
    """
    program, environment = _program(body)
    rows = program.rows(environment, items)
    try:
        orjson.dumps({"": [rows]})  # as deep as it will be sent
    except TypeError as error:
        raise bad_request("The results of the query are nested too deeply.") from error
    return rows


def holds(condition: str, document: dict[str, Any], now: float) -> bool:
    """Say whether a patch condition (`from c where …`) holds; `now` are seconds since the epoch.

    Raises:
        CosmosError: 400 for a condition that is not valid.
    """
    program = compile_query(f"SELECT * {condition}")
    for name in sorted(program.parameters):
        message = f"The parameter {name} has no value."
        raise bad_request(message)
    return bool(program.rows(_environment(now), (document,)))
