"""The audit says what it knows: a source that does not answer is neither a success nor the code's fault."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.security.audit import LOCK, Answer, asked, audit, pins
from tests.security.verdict import Checked, Verdict, worst

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOCKED = """
# a comment
anyio==4.9.0 \\
    --hash=sha256:abc
jinja2[x]==2.10 ; python_version < "3.12" \\
    --hash=sha256:abc
jinja2[x]==3.1.6 ; python_version >= "3.12"
"""


class Osv(BaseHTTPRequestHandler):
    """A source that knows of one hole, in jinja2 2.10."""

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["content-length"])))
        is_bad = query["package"]["name"] == "jinja2" and query["version"] == "2.10"
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.10.1"}]}]
        affected = [{"package": {"ecosystem": "PyPI", "name": "jinja2"}, "ranges": ranges}]
        hole = {"id": "GHSA-test", "summary": "a hole", "details": "a hole", "affected": affected}
        body = json.dumps({"vulns": [hole]} if is_bad else {}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def osv() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/query"
        server.shutdown()
        thread.join()


def test_every_pin_is_asked_about_whatever_it_is_for() -> None:
    assert pins(LOCKED) == [["anyio==4.9.0", "jinja2[x]==2.10"], ["jinja2[x]==3.1.6"]]
    assert sum(map(len, pins(LOCK.read_text()))) > 100


@pytest.mark.chaos
def test_a_hole_is_found_and_named(osv: str) -> None:
    found = audit(LOCKED, lambda _, wanted: asked("osv", wanted, "--osv-url", osv))
    assert found.verdict is Verdict.FOUND
    assert found.lines == ["jinja2 2.10: GHSA-test, fixed in 2.10.1"]


def test_a_source_that_cannot_be_reached_is_no_answer() -> None:
    assert asked("osv", ["anyio==4.9.0"], "--osv-url", "http://127.0.0.1:9/query") is None


@pytest.mark.parametrize(
    "silent", [None, Answer(frozenset(), frozenset({"anyio", "jinja2"}), ())], ids=["no answer", "knows nothing"]
)
def test_silence_is_not_success(silent: Answer | None) -> None:
    """pip-audit ends with 0 and "No known vulnerabilities found" where its source answers 404 to everything."""
    found = audit(LOCKED, lambda *_: silent)
    assert found.verdict is Verdict.NOT_LOOKED
    assert "NOT AUDITED" in found.summary


def test_the_second_source_is_asked_where_the_first_does_not_answer() -> None:
    def ask(service: str, wanted: Sequence[str]) -> Answer | None:
        return Answer(frozenset(wanted), frozenset(), ()) if service == "osv" else None

    assert audit(LOCKED, ask).verdict is Verdict.CLEAN


def test_what_is_unknown_is_named() -> None:
    found = audit(LOCKED, lambda _, wanted: Answer(frozenset(wanted[1:]), frozenset({"anyio"}), ()))
    assert found.verdict is Verdict.NOT_LOOKED
    assert "2 of 3 locked packages are unknown to the source (anyio" in found.summary


def test_what_was_found_weighs_more_than_what_was_not_looked_at() -> None:
    assert worst([Checked(Verdict.NOT_LOOKED, ""), Checked(Verdict.FOUND, "")]) == 1
    assert worst([Checked(Verdict.CLEAN, ""), Checked(Verdict.NOT_LOOKED, "")]) == 3
    assert worst([Checked(Verdict.CLEAN, "")]) == 0
