"""Reads and changes throughput."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from core.local.cosmos.errors import CosmosError, bad_request, not_found, precondition_failed
from core.local.cosmos.messages import Request, Response, json_response
from core.local.cosmos.operations.queries import filter_resources

if TYPE_CHECKING:
    from core.local.cosmos.state.account import Account

MIN_THROUGHPUT = 400
MAX_THROUGHPUT = 1_000_000
STEP = 100
AUTOSCALE_STEP = 1000
_TO_AUTOSCALE = "x-ms-cosmos-migrate-offer-to-autopilot"
_TO_MANUAL = "x-ms-cosmos-migrate-offer-to-manual-throughput"


def requested(request: Request) -> tuple[int | None, dict[str, Any] | None]:
    """Return the manual throughput (RU/s) and the autoscale settings that a create asks for.

    Raises:
        CosmosError: 400 for values that are not allowed.
    """
    throughput = request.number("x-ms-offer-throughput")
    text = request.headers.get("x-ms-cosmos-offer-autopilot-settings")
    if throughput is not None and text is not None:
        raise bad_request("Either manual or autoscale throughput can be asked for, not both.")
    if throughput is not None:
        _check(throughput)
    if text is None:
        return throughput, None
    try:
        settings = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise bad_request("The autoscale settings are not valid JSON.") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("maxThroughput"), int):
        raise bad_request("The autoscale settings must name maxThroughput.")
    _check(settings["maxThroughput"], AUTOSCALE_STEP, AUTOSCALE_STEP)
    return throughput, settings


def _check(throughput: object, minimum: int = MIN_THROUGHPUT, step: int = STEP) -> None:
    if isinstance(throughput, bool) or not isinstance(throughput, int):
        raise bad_request("The throughput must be an integer.")
    if throughput < minimum:
        message = f"Requested throughput {throughput} is less than required minimum throughput {minimum}."
        raise bad_request(message)
    if throughput > MAX_THROUGHPUT or throughput % step:
        message = (
            f"The offer should have valid throughput values between {minimum} and {MAX_THROUGHPUT} inclusive in "
            f"increments of {step}."
        )
        raise bad_request(message)


def _granted(request: Request, held: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Return the content that an offer gets; only a header changes between manual and autoscale."""
    settings = held.get("offerAutopilotSettings")
    if request.flag(_TO_AUTOSCALE) and settings is None:
        maximum = -(-held["offerThroughput"] // AUTOSCALE_STEP) * AUTOSCALE_STEP
        return {**held, **autoscale({"maxThroughput": maximum})}
    if request.flag(_TO_MANUAL) and settings is not None:
        return {**held, "offerThroughput": settings["maxThroughput"], "offerAutopilotSettings": None}
    if request.flag(_TO_AUTOSCALE) or request.flag(_TO_MANUAL):
        return held
    wanted = asked.get("offerAutopilotSettings")
    if (wanted is None) != (settings is None):
        message = f"To change between manual and autoscale throughput, send the header {_TO_AUTOSCALE} or {_TO_MANUAL}."
        raise bad_request(message)
    if wanted is None:
        _check(asked.get("offerThroughput"))
        return {**held, "offerThroughput": asked["offerThroughput"]}
    if not isinstance(wanted, dict):
        raise bad_request("The autoscale settings are not valid.")
    _check(wanted.get("maxThroughput"), AUTOSCALE_STEP, AUTOSCALE_STEP)
    return {**held, **autoscale({**(settings or {}), **wanted})}


def autoscale(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the content of an offer with autoscale `settings`, of which `maxThroughput` is in RU/s."""
    complete = {"tier": 0, "maximumTierThroughput": 0, **settings}
    return {"offerThroughput": settings["maxThroughput"] // 10, "offerAutopilotSettings": complete}


def handle(request: Request, account: Account, name: str | None) -> Response:
    """Answer a request for `/offers`.

    Raises:
        CosmosError: 400, 404, 405.
    """
    offers = list(account.offers.values())
    if name is None:
        if request.method == "POST":
            offers = filter_resources(request.json_object(), offers)
        return json_response(200, {"_rid": "", "Offers": offers, "_count": len(offers)})
    offer = next((o for o in offers if o["_rid"] == name), None)
    if offer is None:
        raise not_found()
    if request.method == "PUT":
        content = request.json_object().get("content")
        if not isinstance(content, dict):
            raise bad_request("The offer must have a content.")
        if request.headers.get("if-match", "*") not in {"*", offer["_etag"]}:
            raise precondition_failed()
        account.change_offer(offer, _granted(request, offer["content"], content))
    elif request.method != "GET":
        raise CosmosError(405, f"The method {request.method} is not allowed here.")
    return json_response(200, offer, {"etag": offer["_etag"]})
