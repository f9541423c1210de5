"""Logs hold neither payloads nor secrets: real processes at level debug, marked data, failures of every kind."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pytest

from core.domain.mappings import ACCOUNTS, GAME_SESSIONS
from core.phases import Phase
from tests.e2e.conftest import environment_of
from tests.integration.relay_steps import run as run_sql
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.local.valkey import EmbeddedValkey
    from core.mappings import Mappings
    from core.settings import Settings
    from tests.e2e.conftest import Run

CONTENT = "zq7content"
"""In names, e-mails, codes, events: it may be in no output at all."""
KEY = "zq7key"
"""In a partition key: it may be in results that name a document, and in no log."""
SECRETS = {"erase_key": "zq7erase", "admin_token": "zq7admintokenadmintoken"}
WRONG = "zq7wrong"
"""In secrets that do not work."""


@dataclass
class Processes:
    """Real processes whose output goes to files, and what they said."""

    environment: dict[str, str]
    directory: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *command: str, **settings: str) -> None:
        more = {f"CROSSFEED_{name.upper()}": value for name, value in settings.items()}
        with (self.directory / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment | more,
            )

    def crossfeed(self, name: str, *arguments: str, **settings: str) -> None:
        self.start(name, sys.executable, "-c", "from functions.cli import main; main()", *arguments, **settings)

    def said(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    async def until_said(self, name: str, *events: str) -> None:
        async with asyncio.timeout(30):
            while not all(event in self.said(name) for event in events):
                assert self.running[name].poll() is None, self.said(name)
                await asyncio.sleep(0.02)

    async def ended(self, name: str) -> int:
        return await asyncio.to_thread(self.running.pop(name).wait, 30)

    async def application(self, name: str) -> None:
        marks = json.dumps({"content": CONTENT, "key": KEY, "again": name})
        self.start(name, sys.executable, "-m", "tests.e2e.marked_application", marks)
        assert await self.ended(name) == 0, self.said(name)


@pytest.fixture
def processes(settings: Settings, valkey: EmbeddedValkey, tmp_path: Path) -> Iterator[Processes]:
    environment = {f"CROSSFEED_{name.upper()}": str(value) for name, value in environment_of(settings).items()}
    own = {f"CROSSFEED_{name.upper()}": value for name, value in SECRETS.items()}
    quick = {
        "CROSSFEED_LOG_LEVEL": "debug",
        "CROSSFEED_LOG_FORMAT": "json",
        "CROSSFEED_HTTP_PORT": "0",
        "CROSSFEED_CACHE_URL": valkey.url,
        "CROSSFEED_RELAY_ATTEMPTS": "1",
        "CROSSFEED_RELAY_RETRY_FIRST_S": "0.05",
        "CROSSFEED_MIRROR_PARK_ATTEMPTS": "2",
        "CROSSFEED_MIRROR_PARK_FIRST_S": "0.05",
    }
    made = Processes({**environment, **own, **quick}, tmp_path)
    yield made
    for process in made.running.values():
        process.kill()
        process.wait()


async def foreign(store: CosmosStore) -> None:
    """Write what the mirror cannot apply: no model's, no column's, another one's value, what a trigger refuses."""
    accounts, sessions = store.container(ACCOUNTS), store.container(GAME_SESSIONS)
    await accounts.upsert_item({"id": "wrong-type", "Email": [CONTENT]})
    await accounts.upsert_item({"id": "wrong-moment", "CreatedAt": CONTENT})
    await accounts.upsert_item({"id": "no-column", "DisplayName": f"{CONTENT}\x00"})
    await accounts.upsert_item({"id": "too-long", "Email": CONTENT + "".join(map(str, range(20_000)))})
    await accounts.upsert_item({"id": "twin-1", "Auth0UserId": f"{CONTENT}-twin"})
    await accounts.upsert_item({"id": "twin-2", "Auth0UserId": f"{CONTENT}-twin"})
    await accounts.upsert_item({"id": "objected", "DisplayName": f"{CONTENT}-objection"})
    await sessions.upsert_item({"id": "wrong-enum", "accountId": KEY, "Status": CONTENT})


MIRRORED = ("wrong-type", "wrong-moment", "too-long", "twin-2", "objected", "wrong-enum")
"""Of those, what the mirror speaks of."""

ERASE = ("erase", "Account", "acc-by-postgres", "acc-by-postgres")
VERBS = (
    ("dead-letters", "list"),
    ("validate", "--deep"),
    ("doctor", "--json"),
    ERASE,
)
"""Those that come across what was marked."""

ALL_VERBS = (
    *((*verb, *how) for verb in (("phase", "status"), ("phase", "plan"), ("settings",)) for how in ((), ("--json",))),
    *((*verb, *how) for verb in (("outbox", "status"), ("repair",), ("doctor",)) for how in ((), ("--json",))),
    ("dead-letters", "list", "--json"),
    ("dead-letters", "parked"),
    ("validate", "--deep", "--json"),
    ("phase", "history", "--json"),
    ("reconcile", "--dry-run"),
    (*ERASE, "--json"),
)

OBJECTION = """
    CREATE FUNCTION objection() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.display_name ~ '-objection$' THEN RAISE USING MESSAGE = 'no, ' || NEW.display_name; END IF;
        RETURN NEW;
    END $$
"""


@pytest.fixture
async def carried(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, processes: Processes) -> dict[str, str]:
    """Let an application, a mirror and a relay carry marked data in both directions, and fail at it; what they said."""
    await run_sql(
        engine,
        "CREATE UNIQUE INDEX ON accounts (auth0_user_id) WHERE auth0_user_id ~ '-twin$'",
        OBJECTION,
        "CREATE TRIGGER objection BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION objection()",
    )
    await switch_phase(engine, cosmos, mappings, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    processes.crossfeed("mirror", "mirror")
    processes.crossfeed("relay", "relay")
    await processes.application("by-cosmos")
    await foreign(cosmos)
    await processes.until_said("mirror", *map(json.dumps, MIRRORED))
    await switch_phase(engine, cosmos, mappings, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    await processes.application("by-postgres")
    await run_sql(
        engine,
        f"INSERT INTO accounts (id, display_name) VALUES ('a/slash', '{CONTENT}')",
        f"INSERT INTO accounts (id, display_name) VALUES ('too-big', repeat('{CONTENT}', 300000))",
        f"INSERT INTO accounts (id, subscription) VALUES ('no-model', jsonb_build_object('Tier', ARRAY['{CONTENT}']))",
    )
    await cosmos.container(ACCOUNTS).upsert_item({"id": "rogue", "DisplayName": CONTENT})
    await processes.until_said("relay", *map(json.dumps, ("a/slash", "too-big", "no-model")))
    await processes.until_said("mirror", json.dumps("rogue"))
    await run_sql(
        engine,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND application_name = 'crossfeed'",
    )
    for name in ("mirror", "relay"):
        processes.running[name].send_signal(signal.SIGTERM)
        assert await processes.ended(name) == 0, processes.said(name)
    return {path.stem: path.read_text() for path in processes.directory.glob("*.log")}


def leaks(settings: Settings, valkey: EmbeddedValkey, said: dict[str, str]) -> list[tuple[str, str]]:
    """Return every line that holds a mark or a secret, with what said it."""
    known = [*SECRETS.values(), str(urlsplit(settings.require_postgres()).password), str(urlsplit(valkey.url).password)]
    if settings.cosmos_key is not None:
        known.append(settings.cosmos_key.get_secret_value())
    unspeakable = [CONTENT, KEY, WRONG, "enE3d3Jvbmc", *known, *map(quote, known)]
    return [
        (name, line[:400])
        for name, text in said.items()
        for line in text.splitlines()
        if any(one in line for one in unspeakable)
    ]


def asked(run: Run, valkey: EmbeddedValkey, verbs: Iterable[tuple[str, ...]], **changed: str | None) -> dict[str, str]:
    """Run commands in this process; what they said, without the keys by which a result names its documents."""
    more = {**SECRETS, "log_level": "debug", "cache_url": valkey.url, "tombstone_ttl_s": "3600", **changed}
    said = {}
    for verb in verbs:
        code, output, errors = run(*verb, **more)
        assert "Traceback" not in errors, (verb, code, errors)
        said[f"{' '.join(verb)} {[*changed]}"] = f"{errors}\n{output.replace(KEY, '')}"
    return said


def test_no_process_says_what_it_carries_or_what_it_gets_in_by(
    settings: Settings, valkey: EmbeddedValkey, carried: dict[str, str], run: Run
) -> None:
    assert all(len(carried[name]) > 1000 for name in ("mirror", "relay", "by-cosmos", "by-postgres"))
    assert leaks(settings, valkey, carried) == []
    assert leaks(settings, valkey, asked(run, valkey, VERBS)) == []


@pytest.mark.chaos
def test_no_verb_says_what_it_came_across(
    settings: Settings, valkey: EmbeddedValkey, carried: dict[str, str], run: Run
) -> None:
    assert leaks(settings, valkey, asked(run, valkey, ALL_VERBS)) == []


def test_secrets_that_do_not_work_are_not_shown(
    settings: Settings, engine: AsyncEngine, valkey: EmbeddedValkey, run: Run
) -> None:
    dsn = urlsplit(settings.require_postgres())
    there = f"{dsn.hostname}:{dsn.port}{dsn.path}"
    broken: list[dict[str, str | None]] = [
        {"postgres_dsn": f"postgresql://postgres:{WRONG}@{there}"},
        {"postgres_dsn": f"postgresql://postgres:{WRONG}%zz@{there}"},
        {"postgres_dsn": f"host=127.0.0.1 password={WRONG} {WRONG}"},
        {"cosmos_key": WRONG},
        {"cosmos_key": "enE3d3Jvbmc="},
        {"cosmos_endpoint": f"AccountEndpoint=https://x/;AccountKey={WRONG}"},
        {"cosmos_endpoint": f"http://me:{WRONG}@localhost/"},
        {"cache_url": f"redis://:{WRONG}@127.0.0.1:1/0"},
        {"cache_url": f"redis://:{WRONG}@cache.example.test/0"},
        {"cache_url": WRONG},
    ]
    said: dict[str, str] = {}
    for number, changed in enumerate(broken):
        found = asked(run, valkey, [("doctor",)], **changed)
        said |= {f"{number} {name}": text for name, text in found.items()}
    assert leaks(settings, valkey, said) == []
