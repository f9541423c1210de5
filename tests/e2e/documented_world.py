"""An installation in which the documentation's commands can be run as they are written, placeholders filled in."""

from __future__ import annotations

import asyncio
import io
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import psycopg

from core.cosmos.client import open_cosmos
from core.phases import Phase
from core.postgres.engine import open_engine
from core.postgres.switching import begin_switch
from outbox.relay import open_relay
from tests.e2e.test_cli_phase_stopped import MIRROR, RELAY
from tests.integration.relay_steps import run as execute
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    import pytest

    from core.mappings import Mappings
    from core.settings import Settings
    from tests.e2e.conftest import Run
    from tests.e2e.documented import Command

FILLED: Final = (
    ("--initial-phase NAME", "--initial-phase dual_write_postgres_read"),
    ("--container NAME", "--container Accounts"),
    ("--to N", "--to 16"),
    ("ENTITY KEY ID", "Account acc-2 acc-2"),
    ("crossfeed erase", "crossfeed erase Account acc-2 acc-2"),
    ("ROLE PROCESS", "ROLE relay"),
    ("crossfeed backfill", "crossfeed backfill --to cosmos"),
    ("dead-letters show", "dead-letters show 1"),
    ("dead-letters replay", "dead-letters replay 1"),
    ("dead-letters discard", "dead-letters discard 2"),
)
"""What stands for what: placeholders, and what a sentence leaves out when it only names the verb."""

SAID: Final = {
    "phase resume": "no switch is under way",
    "doctor": "cosmos",
    "status": "",
}
"""What may end with 1 here, and what it says then: it is for another moment, or finds that no relay runs."""

QUICK: Final = {"relay_lease_s": "0.2", "reconcile_lag_s": "0"}


@dataclass
class World:
    """Phase 2: accounts that were sent, two dead letters, a role that may log in."""

    settings: Settings
    mappings: Mappings
    invoke: Run
    patch: pytest.MonkeyPatch
    role: str = field(default_factory=lambda: f"documented_{uuid4().hex}")

    def prepare(self) -> None:
        async def build() -> None:
            async with open_cosmos(self.settings) as cosmos, open_engine(self.settings) as engine:
                for phase in (Phase.DUAL_WRITE_COSMOS_READ, Phase.DUAL_WRITE_POSTGRES_READ):
                    await switch_phase(engine, cosmos, self.mappings, phase, who="test", why="test")
                await execute(engine, "INSERT INTO accounts (id) VALUES ('acc-1'), ('acc-2')")
                await open_relay(self.settings, self.mappings, engine, cosmos).drain()

        asyncio.run(build())
        self.sql(f"CREATE ROLE {self.role}")

    def sql(self, statement: str) -> None:
        with psycopg.connect(self.settings.require_postgres(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def run(self, command: Command) -> str | None:
        """Run a command of `crossfeed`; return what went wrong."""
        text = command.text
        for placeholder, value in FILLED:
            if text.endswith(placeholder):
                text = text.removesuffix(placeholder) + value
            elif placeholder.rpartition(" ")[2].isupper():
                text = text.replace(f"{placeholder} ", f"{value} ")
        words = [self.role if word == "ROLE" else word for word in shlex.split(text)[1:]]
        if left := [word for word in words if word.isalpha() and word.isupper()]:
            return f"nobody knows what {', '.join(left)} stands for: see FILLED"
        if "--watch" in words or words[0] in {"relay", "mirror", "local"}:
            return "it never ends: name the test that runs it, and ends it, in ELSEWHERE"
        self.before(" ".join(words))
        self.patch.setattr("sys.stdin", io.StringIO("y\n" * 3))
        code, output, errors = self.invoke(*words, **QUICK)
        said = next((said for begins, said in SAID.items() if " ".join(words).startswith(begins)), None)
        if code == 0 or (code == 1 and said is not None and said in output + errors):
            return None
        return f"exit code {code}: {errors or output}"

    def before(self, words: str) -> None:
        """Make the moment that a command is for."""
        if words.startswith("dead-letters"):
            self.sql("DELETE FROM crossfeed.dead_letter")
            self.sql(
                "INSERT INTO crossfeed.dead_letter (number, direction, kind, entity, partition_key, id, reason)"
                " OVERRIDING SYSTEM VALUE"
                " SELECT n, 'to_cosmos', 'refused', 'Account', jsonb_build_array('acc-' || n)::text, 'acc-' || n, '-'"
                " FROM generate_series(1, 2) AS n"
            )
        else:
            self.sql("DELETE FROM crossfeed.dead_letter; DELETE FROM crossfeed.parked")
        if words.startswith(("backfill", "doctor", "outbox slots", "phase", "repair", "validate")):
            asyncio.run(self._settle(words))

    async def _settle(self, words: str) -> None:
        """Send what is under way; be where a step back may be made without moving the primary, or in a switch."""
        async with open_cosmos(self.settings) as cosmos, open_engine(self.settings) as engine:
            await execute(engine, "DELETE FROM crossfeed.relay", "DELETE FROM crossfeed.feed_processor")
            await open_relay(self.settings, self.mappings, engine, cosmos).drain()
            if words.startswith(("phase", "doctor")):
                await execute(engine, RELAY, MIRROR)
            phase = Phase.POSTGRES_ONLY if words.startswith("phase back") else Phase.DUAL_WRITE_POSTGRES_READ
            await switch_phase(engine, cosmos, self.mappings, phase, who="test", why="test")
            if words.startswith("phase cancel"):
                await begin_switch(engine, Phase.DUAL_WRITE_COSMOS_READ, who="ada", why="we move")
