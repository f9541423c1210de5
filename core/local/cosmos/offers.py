"""Reads and changes throughput."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from core.local.cosmos.errors import CosmosError, bad_request, not_found
from core.local.cosmos.messages import Request, Response, json_response
from core.local.cosmos.queries import filter_resources

if TYPE_CHECKING:
    from core.local.cosmos.account import Account

MIN_THROUGHPUT = 400
MAX_THROUGHPUT = 1_000_000


def requested(request: Request) -> tuple[int | None, dict[str, Any] | None]:
    """Return the manual throughput (RU/s) and the autoscale settings that a create asks for.

    Raises:
        CosmosError: 400 for values that are not allowed.
    """
    throughput = request.number("x-ms-offer-throughput")
    text = request.headers.get("x-ms-cosmos-offer-autopilot-settings")
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
    _check(settings["maxThroughput"], 1000)
    return throughput, settings


def _check(throughput: object, minimum: int = MIN_THROUGHPUT) -> None:
    if isinstance(throughput, bool) or not isinstance(throughput, int):
        raise bad_request("The throughput must be an integer.")
    if throughput < minimum:
        message = f"Requested throughput {throughput} is less than required minimum throughput {minimum}."
        raise bad_request(message)
    if throughput > MAX_THROUGHPUT:
        message = f"The offer should have valid throughput values between {minimum} and {MAX_THROUGHPUT} inclusive."
        raise bad_request(message)


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
    offer = next((o for o in offers if o["_rid"].lower() == name.lower()), None)
    if offer is None:
        raise not_found()
    if request.method == "PUT":
        content = request.json_object().get("content")
        if not isinstance(content, dict):
            raise bad_request("The offer must have a content.")
        settings = content.get("offerAutopilotSettings")
        if settings:
            _check(settings.get("maxThroughput"), 1000)
        else:
            _check(content.get("offerThroughput"))
        account.change_offer(offer, content)
    elif request.method != "GET":
        raise CosmosError(405, f"The method {request.method} is not allowed here.")
    return json_response(200, offer, {"etag": offer["_etag"]})
