"""Without TLS nothing is sent to another machine, unless an operator has named it."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from core.cache.client import open_cache
from core.cosmos.client import open_cosmos
from core.domain.mappings import MAPPINGS
from core.errors import ConfigurationError
from core.mappings import Mappings
from core.postgres import tls
from core.postgres.tls import secured, trusted_roots
from core.settings import Settings
from core.transport import is_local, may_be_plain, refuse_plaintext

ELSEWHERE = "postgresql://me:hunter2@db.example.test/app"


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGSSLMODE", "PGSSLROOTCERT", "PGSERVICE", "CROSSFEED_PLAINTEXT_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tls, "_has_own_roots", lambda: False)


def parameters(dsn: str, **settings: Any) -> dict[str, Any]:
    found = secured(conninfo_to_dict(dsn), Settings.load(postgres_dsn=dsn, **settings))
    return {name: value for name, value in found.items() if name.startswith("ssl")}


@pytest.mark.parametrize(
    "host",
    ["", "localhost", "LocalHost.", "db.localhost", "127.0.0.1", "127.8.0.1", "::1", "[::1]", "::ffff:127.0.0.1",
     "0.0.0.0", "/var/run/postgresql", "@abstract"],
)  # fmt: skip
def test_this_machine_is_local(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize(
    "host",
    ["db.example.test", "10.0.0.4", "192.168.1.2", "127.0.0.1.example.test", "localhost.example.test", "notlocalhost",
     "127.1", "::2", "::ffff:10.0.0.4", "fe80::1", "2130706433"],
)  # fmt: skip
def test_every_other_name_is_elsewhere_whatever_it_looks_like(host: str) -> None:
    assert not is_local(host)


def test_hosts_that_are_named_may_be_plain_and_no_others() -> None:
    settings = Settings.load(plaintext_hosts="Postgres, cosmos")
    assert [may_be_plain(host, settings) for host in ("postgres", "cosmos", "postgres.evil.test", "redis")] == [
        True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("url", ["http://cosmos.example.test:8081/", "HTTP://10.0.0.4/"])
async def test_cosmos_db_elsewhere_is_spoken_to_by_tls_alone(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"CROSSFEED_COSMOS_ENDPOINT would send .* use https://.*PLAINTEXT_HO"):
        async with open_cosmos(Settings.load(cosmos_endpoint=url, cosmos_key="a2V5")):
            pass


async def test_redis_elsewhere_is_spoken_to_by_tls_alone_and_its_url_is_not_shown() -> None:
    url = "redis://:hunter2@cache.example.test/0"
    with pytest.raises(ConfigurationError, match=r"CROSSFEED_CACHE_URL would send .* use rediss://") as refused:
        async with open_cache(Settings.load(cache_url=url), Mappings(MAPPINGS)):
            pass
    assert "hunter2" not in str(refused.value)


def test_tls_this_machine_and_named_hosts_pass() -> None:
    refuse_plaintext("X", "rediss://cache.example.test/0", "rediss", Settings.load())
    refuse_plaintext("X", "redis://[::1]:6379/0", "rediss", Settings.load())
    refuse_plaintext("X", "redis://cache/0", "rediss", Settings.load(plaintext_hosts="cache"))


async def test_a_connection_string_with_a_key_in_it_is_not_shown() -> None:
    for pasted in ("AccountEndpoint=https://x/;AccountKey=hunter2", "https://me:hunter2@x/", "https://x/?k=hunter2"):
        with pytest.raises(ConfigurationError) as refused:
            async with open_cosmos(Settings.load(cosmos_endpoint=pasted, cosmos_key="a2V5")):
                pass
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("host", ["db.example.test", "127.0.0.1,db.example.test", "10.0.0.4"])
def test_postgres_elsewhere_must_prove_who_it_is(host: str) -> None:
    assert parameters(f"host={host} user=me") == {"sslmode": "verify-full", "sslrootcert": trusted_roots()}


def test_an_address_counts_before_the_name_that_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parameters("host=db1,db2 hostaddr=127.0.0.1, user=me")["sslmode"] == "verify-full"
    assert parameters("host=db.example.test hostaddr=127.0.0.1 user=me") == {}
    monkeypatch.setenv("PGHOSTADDR", "10.1.2.3")
    assert parameters("host=localhost user=me")["sslmode"] == "verify-full"


@pytest.mark.parametrize("dsn", ["host=/tmp user=me", "postgresql://me@127.0.0.1/db", "postgresql://me@localhost/db"])
def test_postgres_on_this_machine_is_left_to_libpq(dsn: str) -> None:
    assert parameters(dsn) == {}


def test_what_the_dsn_says_is_what_happens() -> None:
    assert parameters(f"{ELSEWHERE}?sslmode=disable") == {"sslmode": "disable"}
    assert parameters(f"{ELSEWHERE}?sslmode=require") == {"sslmode": "require"}
    assert parameters(f"{ELSEWHERE}?sslmode=verify-ca&sslrootcert=/mine") == {
        "sslmode": "verify-ca", "sslrootcert": "/mine",
    }  # fmt: skip


def test_a_host_that_is_named_may_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parameters(ELSEWHERE, plaintext_hosts="db.example.test") == {}
    both = "host=db.example.test,other.example.test user=me"
    assert parameters(both, plaintext_hosts="db.example.test")["sslmode"] == "verify-full"


def test_what_libpqs_own_variables_say_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example.test")
    assert parameters("user=me")["sslmode"] == "verify-full"
    monkeypatch.setenv("PGSSLROOTCERT", "/mine")
    assert parameters("user=me") == {"sslmode": "verify-full"}
    monkeypatch.setenv("PGSSLMODE", "disable")
    assert parameters("user=me") == {}


def test_roots_of_the_users_own_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_has_own_roots", lambda: True)
    assert parameters(ELSEWHERE) == {"sslmode": "verify-full"}


def test_a_service_leads_elsewhere_until_it_says_otherwise() -> None:
    assert parameters("service=app")["sslmode"] == "verify-full"
    assert parameters("service=app sslmode=prefer") == {"sslmode": "prefer"}


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_a_token_is_never_sent_elsewhere_unencrypted(mode: str) -> None:
    with pytest.raises(ConfigurationError, match="would send its token unencrypted"):
        parameters(f"{ELSEWHERE}?sslmode={mode}", postgres_auth="entra")
    assert parameters(f"{ELSEWHERE}?sslmode=require", postgres_auth="entra") == {"sslmode": "require"}
    assert parameters(f"postgresql://me@127.0.0.1/db?sslmode={mode}", postgres_auth="entra") == {"sslmode": mode}
