"""Asks everything in a fixed order; what cannot be opened is one finding, and what hangs on it is skipped."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from core.cosmos.client import open_cosmos
from core.phases import Phase
from core.postgres.engine import open_engine
from core.postgres.failures import translated
from core.postgres.phases import read_phase
from functions.doctor.asking import TIMEOUT_S, asked, asked_now, quiet_stack
from functions.doctor.cache_questions import ask_cache
from functions.doctor.cosmos_questions import ask_access, ask_announced, ask_clocks, ask_containers, ask_history
from functions.doctor.findings import Diagnosis, Examined, Finding, Level, Status, answer, skipped
from functions.doctor.functions_questions import ask_functions
from functions.doctor.patient import Account, Both, Database, Installed
from functions.doctor.postgres_questions import ask_rights, ask_schema, ask_server, ask_tables, ask_triggers
from functions.doctor.settings_questions import ask_http, ask_mappings, ask_settings, ask_tls
from functions.doctor.state_questions import ask_canaries, ask_letters, ask_mirror, ask_parity, ask_phase, ask_relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from core.mappings import Mappings
    from functions.doctor.patient import Surroundings

T = TypeVar("T")

_WITHOUT: Final = Finding(
    "this process runs without Postgres, so that no switch can stop it",
    "CROSSFEED_PHASE=cosmos_only, without CROSSFEED_POSTGRES_DSN",
    "leaving cosmos_only takes your word that no such process is left",
    "set CROSSFEED_POSTGRES_DSN and restart it; then: crossfeed phase advance --writers-restarted",
    Level.WARNING,
)
_NO_POSTGRES: Final = (
    "no process starts, and nothing that Postgres knows was asked",
    "correct CROSSFEED_POSTGRES_DSN (postgresql://user:password@host:5432/database), or let this machine in",
)
_NO_COSMOS: Final = (
    "no process starts, and nothing that Cosmos DB knows was asked",
    "correct CROSSFEED_COSMOS_ENDPOINT, CROSSFEED_COSMOS_KEY, CROSSFEED_COSMOS_DATABASE, or run: crossfeed provision",
)

_OF_SCHEMA: Final = {
    "tables": ask_tables,
    "triggers": ask_triggers,
    "rights": ask_rights,
    "phase": ask_phase,
    "relay": ask_relay,
    "mirror": ask_mirror,
    "canaries": ask_canaries,
    "dead letters": ask_letters,
    "parity": ask_parity,
}
_OF_ACCOUNT: Final = {"containers": ask_containers, "access": ask_access}
_OF_BOTH: Final = {"clocks": ask_clocks, "announced": ask_announced, "history": ask_history}


async def examine(around: Surroundings) -> Diagnosis:
    """Ask everything that can be asked without changing anything. Raises nothing but cancellation."""
    mappings: list[Mappings] = []
    answers = [
        asked_now("settings", "the environment", lambda: ask_settings(around)),
        asked_now("mappings", "CROSSFEED_MAPPINGS", lambda: ask_mappings(around, mappings)),
        asked_now("http", "CROSSFEED_HTTP_HOST", lambda: ask_http(around)),
        asked_now("tls", "the addresses of the stores", lambda: ask_tls(around)),
    ]
    known = mappings[0] if mappings else None
    async with (
        _database(around, known, answers) as database,
        _account(around, known, answers) as account,
    ):
        installed = await _installed(database, answers)
        await _ask_each(_OF_SCHEMA, "Postgres", installed, answers)
        await _ask_each(_OF_ACCOUNT, "Cosmos DB", account, answers)
        containers = answers[-len(_OF_ACCOUNT)]
        control = f"container {around.settings.control_container} "
        has_control = not containers.is_silence and all(control not in one.where for one in containers.findings)
        both = None if installed is None or account is None or not has_control else Both(installed, account.store)
        await _ask_each(_OF_BOTH, "both stores", both, answers)
    answers.append(await asked("cache", "CROSSFEED_CACHE_URL", ask_cache(around)))
    answers.append(asked_now("functions", "the Functions app", lambda: ask_functions(around)))
    return Diagnosis(tuple(answers))


async def _ask_each(
    questions: Mapping[str, Callable[[T], Awaitable[Examined]]],
    where: str,
    whom: T | None,
    answers: list[Examined],
    *,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Ask one after the other; who cannot be asked, or has said nothing at all, is not asked again."""
    is_silent = False
    for name, question in questions.items():
        if whom is None or is_silent:
            answers.append(skipped(name, f"{where} cannot be asked; see above"))
            continue
        answers.append(await asked(name, where, question(whom), timeout_s=timeout_s))
        is_silent = answers[-1].is_silence


@asynccontextmanager
async def _database(
    around: Surroundings, mappings: Mappings | None, answers: list[Examined]
) -> AsyncIterator[Database | None]:
    """Open Postgres, and ask it what any database can be asked; None where nobody answers."""
    settings = around.settings
    if settings.postgres_dsn is None and settings.phase is Phase.COSMOS_ONLY:
        answers.append(answer("postgres", [_WITHOUT], ""))
        yield None
        return
    async with quiet_stack() as stack:

        async def opened() -> Examined:
            engine = await stack.enter_async_context(open_engine(settings))
            found.append(Database(settings, engine, mappings, around.process))
            return await ask_server(found[0])

        found: list[Database] = []
        one = await asked("postgres", "CROSSFEED_POSTGRES_DSN", opened(), otherwise=_NO_POSTGRES)
        answers.append(one)
        yield found[0] if found else None


@asynccontextmanager
async def _account(
    around: Surroundings, mappings: Mappings | None, answers: list[Examined]
) -> AsyncIterator[Account | None]:
    """Open Cosmos DB, and look whether account and database are there; None where they are not."""
    async with quiet_stack() as stack:

        async def opened() -> Examined:
            store = await stack.enter_async_context(open_cosmos(around.settings))
            await store.check([])
            found.append(Account(around.settings, store, mappings, around.app is not None))
            return answer("cosmos", [], "answers, with a single write region; the database is there")

        found: list[Account] = []
        one = await asked("cosmos", "CROSSFEED_COSMOS_ENDPOINT", opened(), otherwise=_NO_COSMOS)
        answers.append(one)
        yield found[0] if found else None


async def _installed(database: Database | None, answers: list[Examined]) -> Installed | None:
    """Look whether the schema is there, and return what hangs on it; None where it is not."""
    if database is None:
        answers.append(skipped("schema", "Postgres cannot be asked"))
        return None
    answers.append(await asked("schema", "Postgres", ask_schema(database)))
    if answers[-1].status is not Status.OK:
        return None
    found: list[Installed] = []

    async def phase() -> Examined:
        with translated("reading the phase"):
            async with database.engine.connect() as connection:
                row = await read_phase(connection)
        found.append(Installed(database.settings, database.engine, database.mappings, database.process, row))
        return answers[-1]

    answers[-1] = await asked("schema", "Postgres", phase())
    return found[0] if found else None
