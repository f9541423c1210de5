"""What the tests of the status page share: an installation in which something of everything is to be seen."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiohttp

from core.phases import Phase
from core.postgres.dead_letters import Direction
from functions.endpoints import serving
from functions.page.access import Door, is_loopback
from functions.page.status_page import StatusPage
from functions.probing import Probe
from tests.integration.relay_steps import make_primary, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from prometheus_client import CollectorRegistry
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings

TOKEN = "a token that is long enough"

HOSTILE = """<script>alert('x')</script><img src=x onerror=alert(1)>"'&amp;"""

_REPORT = {
    "outcome": "done",
    "pause_ms": 412.0,
    "lag_ms": 190.0,
    "parity": {"equal": True},
    "dead_letters": 0,
    "checks": [
        {"name": "lag", "ok": True, "detail": "the mirror is 0.2 s behind", "cure": ""},
        {"name": "foreign writers", "ok": True, "detail": "quiet for 61 s", "cure": ""},
    ],
}

SWITCHED = f"""
    INSERT INTO crossfeed.switch (id, from_phase, to_phase, from_epoch, opened_epoch, step, by_whom, why, started_at,
        drained_at, flipped_at, ended_at, report)
    VALUES ('6f1c0a52-0000-4000-8000-000000000001', 1, 2, 1, 2, 'done', 'dana@ops', 'planned, change 4711',
        now() - interval '3 days', now() - interval '3 days', now() - interval '3 days', now() - interval '3 days',
        '{json.dumps(_REPORT)}')
"""
RELAYS = """
    INSERT INTO crossfeed.relay (relay, name, lease_s, expires_at)
    SELECT ('00000000-0000-4000-8000-00000000000' || n)::uuid, 'relay-' || n || ':7', 600, now() + interval '10 min'
    FROM generate_series(1, 2) n
"""
OWNED = """
    UPDATE crossfeed.slot SET owner = ('00000000-0000-4000-8000-00000000000' || 1 + mod(slot, 2))::uuid
"""
MIRRORS = (
    """
    INSERT INTO crossfeed.feed_processor (processor, name, feeds, lease_s, expires_at)
    VALUES ('00000000-0000-4000-8000-0000000000aa', 'mirror-1:7', '{mirror/Accounts,mirror/GameSessions}', 600,
        now() + interval '10 min')
    """,
    """
    INSERT INTO crossfeed.feed_range (feed, lower_bound, upper_bound, owner)
    VALUES ('mirror/Accounts', '', '80', '00000000-0000-4000-8000-0000000000aa'),
        ('mirror/Accounts', '80', 'FF', '00000000-0000-4000-8000-0000000000aa'),
        ('mirror/GameSessions', '', 'FF', '00000000-0000-4000-8000-0000000000aa')
    """,
)
# A quarter of an hour of two relays: a wave of traffic, a stall of a minute, and a gap in which nobody wrote samples.
SAMPLES = """
    INSERT INTO crossfeed.sample (at, source, direction, lag_s, total)
    SELECT now() - make_interval(secs => 900 - 10 * n), source, 'to_cosmos',
        CASE WHEN n BETWEEN 40 AND 46 THEN (n - 39) * 6.5 ELSE 0.12 + 0.1 * abs(sin(n)) END,
        (SELECT sum(CASE WHEN m BETWEEN 40 AND 45 THEN 0 ELSE 700 + 500 * sin(m / 9.0) + 90 * sin(m * 1.7) END)
            FROM generate_series(0, n) m)
    FROM generate_series(0, 90) n CROSS JOIN (VALUES ('a'), ('b')) AS s(source)
    WHERE n NOT BETWEEN 60 AND 66
"""
PARITY = """
    INSERT INTO crossfeed.parity (entity, as_of, deep, rows, documents, differences, accounted, busy)
    VALUES ('Account', now() - interval '5 hours', false, 128456, 128456, 0, 0, 0),
        ('GameSession', now() - interval '5 hours', true, 2048113, 2048113, 1, 1, 0),
        ('PendingSignup', now() - interval '5 hours', false, 311, 311, 0, 0, 0),
        ('UserProfile', now() - interval '5 hours', false, 128002, 128002, 0, 0, 3)
"""
CANARIES = """
    INSERT INTO crossfeed.canary (direction, container, part, epoch, written, seen, crossed_at, lag_s)
    SELECT 'to_cosmos', '', n::text, (SELECT epoch FROM crossfeed.phase), '9', '9', now() - make_interval(secs => n),
        0.2 + n * 0.01
    FROM generate_series(0, 31) n
"""
LETTERS = """
    INSERT INTO crossfeed.dead_letter (direction, kind, entity, partition_key, id, reference, reason, document,
        attempts, last_at)
    VALUES ('to_cosmos', 'refused', 'Account', '["bad/id"]', 'bad/id', '',
            'Cosmos DB does not take the id: it holds a slash', '{}', 8, now() - interval '40 min'),
        ('to_cosmos', 'event', 'Account', '["acc-17"]', 'acc-17', '0192f2c8-7b1e-7c1a-a4d1-0b8fd6d0a001',
            'the event is larger than 2 MB', '{}', 1, now() - interval '12 min'),
        ('to_postgres', 'rogue_write', 'GameSession', '["s-9001"]', 's-9001', '',
            'Cosmos DB was written while Postgres is primary (content 5f0c…)', '{}', 3, now() - interval '2 min')
"""
MESSAGES = """
    INSERT INTO accounts (id) SELECT 'acc-' || n FROM generate_series(1, 37) n
"""


async def furnish(engine: AsyncEngine) -> None:
    """Let it be three days after a switch to Postgres, with two relays at work and three dead letters."""
    await make_primary(engine, Phase.DUAL_WRITE_POSTGRES_READ)
    await run(
        engine,
        SWITCHED,
        "UPDATE crossfeed.phase_history SET switch_id = '6f1c0a52-0000-4000-8000-000000000001', by_whom = 'dana@ops',"
        " at = now() - interval '3 days', why = 'planned, change 4711' WHERE phase = 2",
        RELAYS,
        OWNED,
        *MIRRORS,
        SAMPLES,
        PARITY,
        CANARIES,
        LETTERS,
        MESSAGES,
    )


class Quiet(Probe[Any]):
    """The readiness of a process with which nothing is wrong, or what a test says."""

    problems: tuple[str, ...] = ()

    async def _ask(self) -> Any:
        return SimpleNamespace(problems=self.problems)

    async def registry(self) -> CollectorRegistry:
        raise NotImplementedError


@dataclass
class Site:
    """A page that is served, and who looks at it."""

    page: StatusPage
    address: str
    readiness: Quiet

    def forget(self) -> None:
        """Let the next look be a fresh one."""
        self.page._look.forget()
        self.readiness._verdict.forget()

    async def get(self, path: str = "/", **headers: str) -> tuple[int, str, Mapping[str, str]]:
        self.forget()
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.address + path, headers=headers) as answer,
        ):
            return answer.status, await answer.text(), answer.headers

    async def json(self) -> Any:
        return json.loads((await self.get("/status.json"))[1])

    async def post(
        self, fields: list[tuple[str, str]], *, path: str = "/", **headers: str
    ) -> tuple[int, str, Mapping[str, str]]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.address + path, data=fields, headers=headers) as answer,
        ):
            return answer.status, await answer.text(), answer.headers


def form_of(page: str, act: str, *numbers: int, token: str | None = TOKEN) -> list[tuple[str, str]]:
    """What a browser sends from this page."""
    [seen] = re.findall(r'name="until" value="([^"]+)"', page)
    fields = [("number", str(number)) for number in numbers] + [("act", act), ("until", seen)]
    return [*fields, ("token", token)] if token is not None else fields


@asynccontextmanager
async def serving_page(  # noqa: PLR0913 - what a process is made of
    settings: Settings,
    engine: AsyncEngine,
    *,
    replays: frozenset[Direction] = frozenset((Direction.TO_COSMOS,)),
    store: Any = None,
    mappings: Any = None,
    is_own: bool | None = None,
    **changed: Any,
) -> AsyncIterator[Site]:
    """Serve the page of a stand-in for a process on a free port of this machine's."""
    given = settings.model_copy(update={"http_port": 0, **changed})
    application: Any = SimpleNamespace(engine=engine, settings=given, store=store, mappings=mappings)
    readiness = Quiet()

    async def own_problems() -> Sequence[str]:
        await readiness.verdict()
        return readiness.problems

    own = is_loopback(given.http_host) if is_own is None else is_own
    page = StatusPage(
        "relay relay-1:7", Door(given, is_own=own), lambda: nullcontext(application), replays, own_problems
    )
    async with serving(given, readiness, page) as address:
        assert address is not None
        yield Site(page, address, readiness)
