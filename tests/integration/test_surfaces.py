"""What is offered over HTTP is closed by default, all of it: a route that is added later cannot be forgotten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from pydantic import SecretStr

from core.settings import Settings
from functions.endpoints import application_of
from tests.integration.page_steps import serving_page

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

GOLDEN = Path(__file__).parents[1] / "functions" / "golden.json"
"""What the worker tells the host of the app, held to that by tests/functions/test_metadata.py."""

READ = {"/", "/status", "/status.json", "/livez", "/readyz", "/metrics"}
WRITTEN = {"/", "/status"}
PROBES = {"/livez", "/readyz"}
"""Who probes or scrapes has no token; there is no document's key among what they are told."""


def test_every_http_function_asks_for_a_key() -> None:
    triggers = [
        binding
        for function in json.loads(GOLDEN.read_text())
        for binding in function["bindings"]
        if binding["type"] == "httpTrigger"
    ]
    assert len(triggers) >= 14
    assert {binding["authLevel"] for binding in triggers} == {"FUNCTION"}


def test_nothing_is_served_and_nothing_may_be_done_until_somebody_says_so() -> None:
    fields = Settings.model_fields
    defaults = {name: fields[name].default for name in ("http_host", "http_port", "admin_token")}
    assert defaults == {"http_host": "127.0.0.1", "http_port": None, "admin_token": None}
    assert fields["admin_on_public_address"].default is False


async def test_the_routes_of_a_process_are_these_and_no_others(settings: Settings, engine: AsyncEngine) -> None:
    async with serving_page(settings, engine) as site:
        routes: list[Any] = list(application_of(site.readiness, site.page).routes)
    assert {route.path for route in routes if "GET" in route.methods} == READ
    assert {route.path for route in routes if route.methods - {"GET", "HEAD"}} == WRITTEN


@pytest.mark.parametrize("token", [None, "a token that is long enough"], ids=["no token", "a token"])
@pytest.mark.parametrize("is_own", [True, False], ids=["this machine's address", "a public address"])
async def test_no_route_acts_or_shows_documents_to_a_stranger(
    settings: Settings, engine: AsyncEngine, token: str | None, is_own: bool
) -> None:
    secret = None if token is None else SecretStr(token)
    async with (
        serving_page(settings, engine, is_own=is_own, admin_token=secret) as site,
        aiohttp.ClientSession() as web,
    ):
        for path in READ | WRITTEN | {"/nothing"}:
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                async with web.request(method, f"{site.address}{path}", data={"act": "discard", "all": "1"}) as refused:
                    assert refused.status in {401, 403, 404, 405}, (method, path)
        for path in READ - PROBES - {"/metrics"}:
            async with web.get(f"{site.address}{path}") as answer:
                assert answer.status in ({200} if is_own else {401, 403}), path
        for path in PROBES:
            async with web.get(f"{site.address}{path}") as answer:
                assert answer.status in {200, 503}
