"""The embedded Valkey: what it offers, and that nothing of it is left behind however its process ends."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.local.postgres_home import LocalExtraMissingError
from core.local.valkey import EmbeddedValkey, EmbeddedValkeyError

_PARENT = """
import time
from core.local.valkey import EmbeddedValkey
with EmbeddedValkey() as valkey:
    print(valkey.url, flush=True)
    time.sleep(60)
"""


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=0.1, retry=Retry(NoBackoff(), 0), decode_responses=True)


def answers(url: str) -> bool:
    with client(url) as asking:
        try:
            asking.ping()
        except redis.ConnectionError:
            return False
        return True


def test_it_serves_on_loopback_whoever_has_the_password_and_shows_it_to_nobody() -> None:
    with EmbeddedValkey({"maxmemory": "2mb", "set-proc-title": "no"}) as server:
        with client(server.url) as asking:
            asking.set("a", "b")
            assert asking.get("a") == "b"
            assert asking.config_get("maxmemory")["maxmemory"] == str(2 * 1024**2)
            assert asking.config_get("bind")["bind"] == "127.0.0.1"
            assert (asking.config_get("save")["save"], asking.config_get("appendonly")["appendonly"]) == ("", "no")
        password = urlsplit(server.url).password
        assert password
        with pytest.raises(redis.AuthenticationError), client(server.url.replace(password, "guessed")) as guessing:
            guessing.ping()
        listed = subprocess.run(["ps", "-o", "args=", "-p", str(server.pid)], capture_output=True, check=True)
        assert password not in listed.stdout.decode()
        with pytest.raises(EmbeddedValkeyError, match="open already"), server:
            pass
        assert answers(server.url)
    assert not answers(server.url)


def test_after_a_kill_it_is_there_again_at_its_port_and_empty(own_valkey: EmbeddedValkey) -> None:
    with client(own_valkey.url) as asking:
        asking.set("a", "b")
    own_valkey.kill()
    assert not answers(own_valkey.url)
    with pytest.raises(EmbeddedValkeyError, match="not running"):
        _ = own_valkey.pid
    own_valkey.start()
    with client(own_valkey.url) as asking:
        assert asking.get("a") is None


def test_while_frozen_it_answers_nothing_and_afterwards_everything(own_valkey: EmbeddedValkey) -> None:
    with client(own_valkey.url) as asking:
        asking.set("a", "b")
        with own_valkey.frozen(), pytest.raises(redis.TimeoutError):
            asking.get("a")
        assert asking.get("a") == "b"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_with_its_process_however_that_ends(how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        assert answers(url)
        parent.send_signal(how)
        parent.wait(20)
    deadline = time.monotonic() + 10
    while answers(url):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_it_says_is_in_the_error_when_it_does_not_start() -> None:
    with pytest.raises(EmbeddedValkeyError, match="wrongdirective"), EmbeddedValkey({"wrongdirective": "1"}):
        pass


def test_without_the_extra_its_name_is_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> Any:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", nothing)
    with pytest.raises(LocalExtraMissingError, match=r"crossfeed\[local\]"), EmbeddedValkey():
        pass
