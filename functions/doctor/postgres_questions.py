"""What is asked of Postgres as a database: the schema, the tables, the triggers, and the rights of this role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from psycopg.errors import UndefinedTable

from core.errors import ConfigurationError, MappingError, SchemaError, StoreUnavailableError
from core.postgres.armed import trigger_problems
from core.postgres.failures import translated
from core.postgres.fit import blind_triggers, check_fit
from core.postgres.rights import Process, check_rights, tables_not_owned
from core.postgres.schema import check_schema
from functions.doctor.findings import Examined, Finding, Level, answer, skipped

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mappings import Mappings
    from functions.doctor.patient import Database, Installed

OLDEST: Final = 14
"""The oldest version of PostgreSQL that Crossfeed is tested with."""

_SERVER = """
    SELECT current_setting('server_version_num')::int / 10000, current_setting('server_version'),
        current_setting('session_replication_role'), current_setting('max_connections')::int,
        current_setting('superuser_reserved_connections')::int
"""
_WHERE: Final = "Postgres"


async def ask_server(database: Database) -> Examined:
    """Whether the server is one that Crossfeed knows, and its sessions are as they must be."""
    with translated("asking the server"):
        async with database.engine.connect() as connection:
            major, version, role, most, reserved = tuple((await connection.exec_driver_sql(_SERVER)).one())
    findings = []
    if major < OLDEST:
        findings.append(
            Finding(
                f"PostgreSQL {version} is older than {OLDEST}",
                _WHERE,
                "the triggers and the log were never tried on it",
                f"upgrade the server to {OLDEST} or later",
            )
        )
    if role != "origin":
        findings.append(
            Finding(
                f"sessions begin with session_replication_role={role}, so that no trigger fires",
                "the role or the database of CROSSFEED_POSTGRES_DSN",
                "writes are neither captured nor refused while a switch drains: they are lost to Cosmos DB",
                "run: ALTER ROLE … RESET session_replication_role; ALTER DATABASE … RESET session_replication_role;"
                " then look for what was missed: crossfeed validate",
            )
        )
    if database.settings.postgres_pool_size > (most - reserved) // 2:
        findings.append(
            Finding(
                f"one process may take {database.settings.postgres_pool_size} of {most - reserved} connections",
                "CROSSFEED_POSTGRES_POOL_SIZE",
                "two processes and the application do not fit beside each other",
                "lower CROSSFEED_POSTGRES_POOL_SIZE, raise max_connections, or put PgBouncer in front",
                Level.WARNING,
            )
        )
    return answer("postgres", findings, f"PostgreSQL {version} answers, and takes writes")


async def ask_schema(database: Database) -> Examined:
    """Whether the schema `crossfeed` is that of this version."""
    findings = []
    with translated("checking the schema"):
        async with database.engine.connect() as connection:
            try:
                await check_schema(connection)
            except SchemaError as error:
                cure = "upgrade this program" if "newer" in str(error) else "run: crossfeed migrate"
                why = "no process of this version starts on it"
                findings.append(Finding(str(error).partition("; ")[0], "schema crossfeed", why, cure))
    return answer("schema", findings, "is that of this version")


async def ask_tables(installed: Installed) -> Examined:
    """Whether every mapping fits its table, and the table is captured."""
    if installed.mappings is None:
        return skipped("tables", "the mappings are not known")
    findings = []
    for mapping in installed.mappings:
        with translated(f"looking at the table of {mapping.name}"):
            async with installed.engine.connect() as connection:
                try:
                    await check_fit(connection, [mapping])
                except MappingError as error:
                    findings += [_misfit(problem) for problem in str(error).split("; ")]
    with translated("looking at your own triggers"):
        async with installed.engine.connect() as connection:
            blind = await blind_triggers(connection)
    findings += [
        Finding(
            f"trigger {trigger} runs in the mirror, too",
            f"table {table}",
            "what it writes to other mapped tables then is captured by nobody",
            "create it again with WHEN (current_setting('crossfeed.mirroring', true) IS DISTINCT FROM 'on')",
            Level.WARNING,
        )
        for trigger, table in blind
    ]
    return answer("tables", findings, f"{len(list(installed.mappings))} fit their mappings, and are captured")


def _misfit(problem: str) -> Finding:
    where, _, what = problem.partition(": ")
    rest, _, cure = what.rpartition(": ")
    if not cure.startswith("call "):
        rest, cure = what, "change the table in a migration of yours, or the mapping"
    if what.startswith("there is no table"):
        cure = "create it in a migration of yours, and call core.postgres.capture.install(op, <the mapping>) there"
    return Finding(rest, where, "relay and mirror refuse to start: its documents could not all be carried", cure)


async def ask_triggers(installed: Installed) -> Examined:
    """Whether capture and fence are on or off as the phase wants them."""
    with translated("looking at the triggers"):
        async with installed.engine.connect() as connection:
            problems = await trigger_problems(connection)
    findings = [
        Finding(
            problem,
            f"phase {installed.phase.phase.label}",
            "writes are not captured, or not refused while another store is the primary",
            "find out who changed it; then call core.postgres.capture.install(op, <the mapping>) in a migration of"
            " yours, and look for what was missed: crossfeed validate",
        )
        for problem in problems
    ]
    return answer("triggers", findings, f"are as the phase {installed.phase.phase.label} wants them")


async def ask_rights(installed: Installed) -> Examined:
    """Whether this role may do what its process does; without a process, whether it is enough for any."""
    if installed.mappings is None:
        return skipped("rights", "the mappings are not known")
    try:
        lacking, foreign = await _lacking(installed.engine, installed.mappings)
    except StoreUnavailableError as error:
        if isinstance(error.__cause__, UndefinedTable):
            return skipped("rights", "a table is missing; see tables")
        raise
    if installed.process in lacking:
        return answer("rights", [_lack(installed.process, lacking[installed.process])], "")
    able = ", ".join(process.name.lower() for process in Process if process not in lacking)
    if not able:
        least = min(lacking, key=lambda process: len(lacking[process]))
        return answer("rights", [_lack(least, lacking[least])], "")
    owner = ", but not for steps between phases, which take the tables' owner" if foreign else ", and for operators"
    return answer("rights", [], f"are enough for {able}{owner}")


async def _lacking(engine: AsyncEngine, mappings: Mappings) -> tuple[dict[Process, str], list[str]]:
    """Return what each process lacks that lacks something, and the tables that are somebody else's."""
    lacking = {}
    with translated("looking at the rights"):
        async with engine.connect() as connection:
            foreign = await tables_not_owned(connection)
            for process in Process:
                try:
                    await check_rights(connection, process, mappings)
                except ConfigurationError as error:
                    lacking[process] = str(error)
    return lacking, foreign


def _lack(process: Process, message: str) -> Finding:
    what, _, grants = message.partition("; run: ")
    name, role = process.name.lower(), what.split()[2]
    why = f"it does not start, or fails later; missing is what these would give: {grants}"
    cure = f"run, as the owner of the tables: crossfeed grant {role} {name}"
    return Finding(f"{what} (as {name})", "CROSSFEED_POSTGRES_DSN", why, cure)
