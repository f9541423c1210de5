"""Who may read the status page and who may act on it, header by header."""

from __future__ import annotations

import base64

import pytest
from pydantic import SecretStr

from core.errors import ConfigurationError
from core.settings import Settings
from functions.page.access import Door, Refusal, is_loopback

TOKEN = "0123456789abcdef"
HERE = {"host": "127.0.0.1:8080"}


def door(*, is_own: bool = True, token: str | None = TOKEN, public: bool = False, is_guarded: bool = False) -> Door:
    secret = None if token is None else SecretStr(token)
    return Door(Settings.load(admin_token=secret, admin_on_public_address=public), is_own, is_guarded)


def basic(password: str, user: str = "anybody") -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1", True),
        ("127.8.0.3", True),
        ("::1", True),
        ("[::1]", True),
        ("LocalHost.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.7", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_an_address_is_this_machines_own_or_not(host: str, is_own: bool) -> None:
    assert is_loopback(host) is is_own


def test_on_this_machines_own_address_everybody_may_read_and_the_token_decides_who_acts() -> None:
    own = door()
    assert own.may_read(HERE)
    assert own.may_read({"host": "[::1]:8080"})
    assert own.refusal(HERE, TOKEN) is None
    assert own.refusal({**HERE, "authorization": f"Bearer {TOKEN}"}, None) is None
    assert own.refusal(HERE, None) is Refusal.WRONG
    assert own.refusal(HERE, TOKEN[:-1]) is Refusal.WRONG
    assert own.refusal(HERE, TOKEN + "x") is Refusal.WRONG
    assert own.refusal(HERE, "\udcff") is Refusal.WRONG


def test_without_a_token_nobody_acts_whatever_he_sends() -> None:
    shut = door(token=None, public=True)
    for given in (None, "", "None", TOKEN):
        assert shut.refusal(HERE, given) is Refusal.OFF
    assert shut.refusal({**HERE, "authorization": "Bearer "}, "") is Refusal.OFF


def test_elsewhere_reading_takes_the_token_as_a_password_or_as_a_bearer_token() -> None:
    there = door(is_own=False)
    elsewhere = {"host": "relay.example"}
    assert not there.may_read(elsewhere)
    assert there.may_read({**elsewhere, **basic(TOKEN)})
    assert there.may_read({**elsewhere, "authorization": f"bearer {TOKEN}"})
    for wrong in (basic("nonsense"), basic(""), {"authorization": "Basic !!"}, {"authorization": "Basic /w=="}):
        assert not there.may_read({**elsewhere, **wrong})
    assert not door(is_own=False, token=None).may_read({**elsewhere, **basic("")})


def test_elsewhere_nobody_acts_unless_it_is_allowed_by_name() -> None:
    elsewhere = {"host": "relay.example"}
    assert door(is_own=False).refusal(elsewhere, TOKEN) is Refusal.PUBLIC
    assert door(is_own=False, public=True).refusal(elsewhere, TOKEN) is None
    assert door(is_own=False, public=True).refusal(elsewhere, "wrong" * 4) is Refusal.WRONG


def test_what_a_browser_adds_by_itself_lets_nobody_act() -> None:
    headers = {**HERE, **basic(TOKEN), "cookie": f"token={TOKEN}"}
    assert door().refusal(headers, None) is Refusal.WRONG
    assert door(is_own=False, public=True).refusal(headers, None) is Refusal.WRONG


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "rebound.example"},
        {"host": "[::1"},
        {**HERE, "x-forwarded-for": "203.0.113.9"},
        {**HERE, "forwarded": "for=203.0.113.9"},
        {**HERE, "x-forwarded-host": "status.example"},
        {**HERE, "x-forwarded-proto": "https"},
        {**HERE, "via": "1.1 proxy"},
    ],
)
def test_who_comes_by_another_name_or_through_a_proxy_is_no_local_reader(headers: dict[str, str]) -> None:
    assert not door().may_read(headers)
    assert door().refusal(headers, TOKEN) is Refusal.PUBLIC


def test_who_has_shown_a_function_key_may_read_and_still_needs_the_token_to_act() -> None:
    app = door(is_own=False, is_guarded=True, public=True)
    assert app.may_read({})
    assert app.refusal({}, None) is Refusal.WRONG
    assert door(is_own=False, is_guarded=True).refusal({}, TOKEN) is Refusal.PUBLIC


def test_a_token_that_could_be_guessed_is_refused_by_its_name_without_its_value() -> None:
    with pytest.raises(ConfigurationError, match="CROSSFEED_ADMIN_TOKEN") as refused:
        Settings.load(admin_token="guess me")
    assert "guess me" not in str(refused.value)
