"""The status page of the Functions app: behind a function key, and its buttons behind the token as well."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import azure.functions as func
import pytest
from pydantic import SecretStr

from functions import admin
from functions.runtime import Runtime
from tests.integration.page_steps import TOKEN, furnish
from tests.integration.relay_steps import letters

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings
    from tests.functions.conftest import Installation


async def test_the_host_gets_a_page_with_its_headers(installation: Installation) -> None:
    http = {"method": "GET", "url": "https://app.example/api/crossfeed/page", "query": {"code": "a key"}}
    answer = await installation.worker.invoke("page", "request", {"http": http})
    found = answer["return_value"]["http"]
    page = found["body"].get("bytes") or found["body"]["string"]
    assert found["status_code"] == "200"
    assert page.startswith("<!doctype html>")
    assert "Functions app" in page
    assert "a key" not in page
    if installation.worker.uses_library:
        headers = {name.lower(): value for name, value in found["headers"].items()}
        assert headers["content-type"].startswith("text/html")
        assert headers["content-security-policy"].startswith("default-src 'none'")


async def test_the_timer_that_tries_again_writes_a_sample(installation: Installation) -> None:
    async with installation.engine.begin() as connection:
        await connection.exec_driver_sql("DELETE FROM crossfeed.sample")
        await connection.exec_driver_sql(
            "INSERT INTO crossfeed.trigger_progress (function, container, batches, documents, newest_ts)"
            " VALUES ('mirror_Accounts', 'Accounts', 1, 7, 1) ON CONFLICT DO NOTHING"
        )
    assert await installation.worker.tick("parked") == {"status": 1}
    async with installation.engine.connect() as connection:
        found = await connection.exec_driver_sql("SELECT source, direction FROM crossfeed.sample")
        assert [tuple(row) for row in found] == [("functions", "to_postgres")]


async def test_the_timer_that_compares_remembers_what_it_has_found(installation: Installation) -> None:
    async with installation.engine.begin() as connection:
        await connection.exec_driver_sql("DELETE FROM crossfeed.parity")
    assert await installation.worker.tick("validate") == {"status": 1}
    async with installation.engine.connect() as connection:
        found = await connection.exec_driver_sql("SELECT count(*) FROM crossfeed.parity")
        assert found.scalar_one() == len(installation.mappings.containers)


class App:
    """The functions as the host calls them, with settings of the test's own."""

    def __init__(self, settings: Settings) -> None:
        self.runtime = Runtime(load=lambda: settings)
        found = func.FunctionApp()
        found.register_functions(admin.blueprint(self.runtime))
        self._functions: dict[str, Any] = {str(item.get_function_name()): item for item in found.get_functions()}

    async def call(self, name: str, **request: Any) -> tuple[int, str]:
        asked = func.HttpRequest(
            method=request.pop("method", "GET"),
            url="https://app.example/api/crossfeed/page",
            headers={"Host": "localhost", **request.pop("headers", {})},
            body=request.pop("body", b""),
        )
        answer: func.HttpResponse = await self._functions[name].get_user_function()(asked)
        return answer.status_code, answer.get_body().decode()


@pytest.fixture
async def furnished(engine: AsyncEngine, cosmos: CosmosStore, settings: Settings, mappings: Mappings) -> Settings:
    await cosmos.provision(mappings, leases=True)
    await furnish(engine)
    return settings


async def test_its_buttons_take_the_token_and_the_word_that_this_address_may_act(
    furnished: Settings, engine: AsyncEngine
) -> None:
    fields = [("number", "1"), ("act", "discard"), ("until", "2100-01-01T00:00:00+00:00"), ("token", TOKEN)]
    body = urlencode(fields).encode()
    token = {"admin_token": SecretStr(TOKEN)}
    for changed, status, said in (
        ({}, 403, "CROSSFEED_ADMIN_TOKEN is not set"),
        (token, 403, "this address is not this machine&#39;s alone"),
        ({"admin_token": SecretStr("another token than that"), "admin_on_public_address": True}, 403, "not the token"),
        ({**token, "admin_on_public_address": True}, 200, "Discarded 1 dead letter."),
    ):
        app = App(furnished.model_copy(update=changed))
        try:
            found, page = await app.call("page_act", method="POST", body=body)
        finally:
            await app.runtime.close()
        assert (found, said in page) == (status, True)
    assert len(await letters(engine)) == 2


async def test_what_keeps_it_from_its_stores_is_said(furnished: Settings) -> None:
    nowhere = SecretStr("postgresql://nobody@127.0.0.1:1/nothing")
    app = App(furnished.model_copy(update={"postgres_dsn": nowhere}))
    status, body = await app.call("page")
    assert status == 500
    assert "cannot connect to Postgres" in json.loads(body)["error"]
