"""The doctor finds what is wrong with stores and settings, and names what cures it: each planted, in real stores."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest

from core.local.cosmos import EMULATOR_KEY
from core.phases import Phase
from core.postgres.engine import open_engine
from core.postgres.phases import open_phase
from core.postgres.switching import begin_switch
from tests.e2e.doctor_steps import diagnosis
from tests.sync_sdk import sync_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings
    from tests.e2e.conftest import Run
    from tests.stores import PostgresServer


def dsn_of(settings: Settings) -> str:
    return settings.require_postgres()


def execute(settings: Settings, *statements: str) -> None:
    with psycopg.connect(dsn_of(settings), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def step(settings: Settings, phase: Phase, *, switch_to: Phase | None = None) -> None:
    """Be in a phase, and leave a switch in the middle, as if its process had been killed."""

    async def prepare() -> None:
        async with open_engine(settings) as engine:
            await open_phase(engine, phase, who="test", why="test")
            if switch_to is not None:
                await begin_switch(engine, switch_to, who="ada", why="we move")

    asyncio.run(prepare())


@pytest.fixture
def role(settings: Settings) -> Iterator[str]:
    """The DSN of a role that may connect, and nothing else."""
    name = f"poor_{settings.cosmos_database}"
    execute(settings, f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    parts = urlsplit(dsn_of(settings))
    yield parts._replace(netloc=f"{name}:secret@{parts.netloc.rpartition('@')[2]}").geturl()
    execute(settings, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@pytest.mark.usefixtures("cosmos")
def test_a_sound_installation_is_healthy_and_nothing_is_changed(run: Run, settings: Settings) -> None:
    before = rows_of(settings)
    report = diagnosis(run)
    assert (report.code, report.problems) == (0, [])
    statuses = {name: check["status"] for name, check in report.checks.items()}
    assert [name for name, status in statuses.items() if status == "skipped"] == [
        "http", "announced", "cache", "functions",
    ]  # fmt: skip
    assert "warning" not in statuses.values()
    assert rows_of(settings) == before
    code, output, _ = run("doctor")
    assert (code, output.splitlines()[-1]) == (0, "0 problems, 0 warnings")


RELAY = "SELECT crossfeed.keep_leases(gen_random_uuid(), 'a relay', 600)"
RANGES = "INSERT INTO crossfeed.feed_range (feed, lower_bound, upper_bound) SELECT unnest(%s::text[]), '', 'FF'"
MIRROR = "SELECT crossfeed.keep_feed_leases(gen_random_uuid(), 'a mirror', 600, %s::text[], false)"


def test_an_installation_whose_processes_run_is_healthy_in_both_phases_of_dual_writes(
    run: Run, cosmos: CosmosStore, settings: Settings, mappings: Mappings
) -> None:
    feeds = [f"mirror/{container}" for container in mappings.containers]
    with psycopg.connect(dsn_of(settings), autocommit=True) as connection:
        connection.execute(RANGES, [feeds])
        connection.execute(MIRROR, [feeds])
        code, _, errors = run("phase", "advance", "--writers-restarted")
        assert code == 0, errors
        report = diagnosis(run)
        assert [name for name, check in report.checks.items() if check["findings"]] == []
        assert report.checks["announced"]["status"] == "ok"
        assert report.checks["mirror"]["detail"] == "1 processors alive; every container is read"
        step(settings, Phase.DUAL_WRITE_POSTGRES_READ)
        connection.execute(RELAY)
    report = diagnosis(run)
    assert [name for name, check in report.checks.items() if check["findings"]] == []
    assert report.checks["relay"]["detail"] == "1 alive, 0 messages wait"


def rows_of(settings: Settings) -> dict[str, int]:
    with psycopg.connect(dsn_of(settings)) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'crossfeed' ORDER BY 1")
        return {
            name: connection.execute(f"SELECT count(*) FROM crossfeed.{name}".encode()).fetchall()[0][0]
            for (name,) in names.fetchall()
        }


@pytest.mark.usefixtures("cosmos")
def test_a_setting_that_does_not_fit_is_named_and_the_rest_is_examined(run: Run) -> None:
    report = diagnosis(run, mirror_page_size="hunter2", relay_pol_max_ms="7", http_port="x")
    report.found("settings", "CROSSFEED_MIRROR_PAGE_SIZE: ", "crossfeed settings")
    report.found("settings", "CROSSFEED_HTTP_PORT: ", "crossfeed settings")
    typo = report.found("settings", "no setting is called CROSSFEED_RELAY_POL_MAX_MS", "", "warning")
    assert typo["run"] == "rename it to CROSSFEED_RELAY_POLL_MAX_MS"
    assert report.problems == ["settings"]
    assert "hunter2" not in report.text


WRONG: list[tuple[dict[str, str | None], str, str, str]] = [
    (
        {"postgres_dsn": "postgresql://me:hunter2@127.0.0.1:9/db"},
        "postgres",
        "cannot connect to Postgres at 127.0.0.1:9",
        "correct CROSSFEED_POSTGRES_DSN",
    ),
    ({"postgres_dsn": "hunter2://"}, "postgres", "is not a libpq connection string", "CROSSFEED_POSTGRES_DSN"),
    ({"cosmos_endpoint": "http://127.0.0.1:9/"}, "cosmos", "no Cosmos DB answers", "CROSSFEED_COSMOS_ENDPOINT"),
    ({"cosmos_key": "aHVudGVyMg=="}, "cosmos", "refuses the credentials (401)", "CROSSFEED_COSMOS_KEY"),
    ({"cosmos_database": "nowhere"}, "cosmos", "has no database 'nowhere'", "crossfeed provision"),
    ({"mappings": "core.domain.nowhere:X"}, "mappings", "cannot import core.domain.nowhere", "PYTHONPATH"),
    ({"consumers": "core.domain.nowhere:X"}, "mappings", "cannot import core.domain.nowhere", "unset it"),
]


@pytest.mark.usefixtures("cosmos")
def test_a_wrong_address_is_one_finding_and_what_hangs_on_it_is_skipped(run: Run) -> None:
    for wrong, name, what, cure in WRONG:
        report = diagnosis(run, **wrong)
        report.found(name, what, cure)
        assert report.problems == [name], wrong
        assert "hunter2" not in report.text


@pytest.fixture
async def empty_database(postgres_server: PostgresServer, settings: Settings) -> str:
    """A database without anything in it."""
    return await postgres_server.create_database(f"empty_{settings.cosmos_database}")


@pytest.mark.usefixtures("cosmos")
def test_a_schema_that_is_missing_is_made_by_migrate(run: Run, empty_database: str) -> None:
    report = diagnosis(run, postgres_dsn=empty_database)
    report.found("schema", "is missing in this database", "run: crossfeed migrate")
    assert report.checks["relay"]["status"] == "skipped"


@pytest.mark.usefixtures("cosmos")
def test_a_table_that_lost_a_column_and_one_that_is_not_captured_are_named(run: Run, settings: Settings) -> None:
    execute(
        settings,
        "ALTER TABLE accounts DROP COLUMN role",
        "DELETE FROM crossfeed.captured WHERE entity = 'GameSession'",
        "DROP TABLE pending_signups",
    )
    report = diagnosis(run)
    report.found("tables", "there is no table pending_signups", "create it in a migration of yours")
    assert report.checks["rights"]["status"] == "skipped"
    column = report.found("tables", "no column role", "a migration of yours")
    assert column["where"] == "mapping Account, table accounts"
    report.found("tables", "its writes are not captured", "call core.postgres.capture.install(op, ")


@pytest.mark.usefixtures("cosmos")
def test_a_trigger_that_was_switched_off_is_named(run: Run, settings: Settings) -> None:
    step(settings, Phase.DUAL_WRITE_POSTGRES_READ)
    execute(settings, "ALTER TABLE accounts DISABLE TRIGGER crossfeed_capture_update")
    report = diagnosis(run)
    report.found("triggers", "crossfeed_capture_update of accounts is off or missing", "crossfeed validate")


@pytest.mark.usefixtures("cosmos")
def test_sessions_in_which_no_trigger_fires_are_found(run: Run, settings: Settings) -> None:
    database = urlsplit(dsn_of(settings)).path.lstrip("/")
    execute(settings, f"ALTER DATABASE {database} SET session_replication_role = replica")
    report = diagnosis(run)
    report.found("postgres", "session_replication_role=replica, so that no trigger fires", "ALTER DATABASE … RESET")


@pytest.mark.usefixtures("cosmos")
def test_a_role_without_rights_is_told_what_to_grant(run: Run, settings: Settings, role: str) -> None:
    schema = f"GRANT USAGE ON SCHEMA crossfeed TO {urlsplit(role).username}"
    execute(settings, schema, f"GRANT SELECT ON ALL TABLES IN SCHEMA crossfeed TO {urlsplit(role).username}")
    for options, process in (((), "application"), (("--process", "mirror"), "mirror")):
        report = diagnosis(run, *options, postgres_dsn=role)
        report.found("rights", f"lacks rights (as {process})", f"crossfeed grant {urlsplit(role).username} {process}")
        assert "secret" not in report.text


@pytest.mark.usefixtures("cosmos")
def test_a_role_with_the_rights_of_its_process_is_enough_to_look_at_everything(
    run: Run, settings: Settings, role: str
) -> None:
    for process in ("relay", "mirror", "functions", "application"):
        assert run("grant", str(urlsplit(role).username), process)[0] == 0
        report = diagnosis(run, "--process", process, postgres_dsn=role)
        assert (report.code, report.problems) == (0, []), process
        assert report.checks["rights"]["detail"].endswith(
            "but not for steps between phases, which take the tables' owner"
        )


@pytest.mark.usefixtures("cosmos")
def test_a_pin_to_another_phase_is_found(run: Run) -> None:
    report = diagnosis(run, phase="postgres_only")
    report.found("phase", "pinned to postgres_only, but the phase is cosmos_only", "unset CROSSFEED_PHASE")


@pytest.mark.usefixtures("cosmos")
def test_a_process_that_runs_without_postgres_by_its_pin_is_only_warned(run: Run) -> None:
    report = diagnosis(run, phase="cosmos_only", postgres_dsn=None)
    report.found("postgres", "runs without Postgres", "crossfeed phase advance --writers-restarted", "warning")
    assert (report.code, report.checks["containers"]["status"]) == (0, "ok")


@pytest.mark.usefixtures("cosmos")
def test_a_switch_whose_process_is_gone_is_found_and_so_is_what_it_left_unannounced(
    run: Run, settings: Settings
) -> None:
    step(settings, Phase.DUAL_WRITE_COSMOS_READ, switch_to=Phase.DUAL_WRITE_POSTGRES_READ)
    report = diagnosis(run)
    switch = report.found("phase", "writers are refused since", "crossfeed phase cancel")
    assert "begun by ada" in switch["where"]
    report.found("announced", "Cosmos DB was not told of epoch 2", "run: crossfeed phase resume")
    report.found("mirror", "nobody reads the change feed of 'Accounts'", "start: crossfeed mirror")


@pytest.mark.usefixtures("cosmos")
def test_slots_that_nobody_holds_and_a_log_that_nobody_sends_are_found(run: Run, settings: Settings) -> None:
    step(settings, Phase.DUAL_WRITE_POSTGRES_READ)
    execute(settings, "INSERT INTO accounts (id) VALUES ('a1')")
    report = diagnosis(run, relay_max_lag_s="0.001")
    report.found("relay", "no relay is alive", "start: crossfeed relay")
    report.found("relay", "the oldest of 1 unsent messages", "crossfeed outbox status")


@pytest.mark.usefixtures("cosmos")
def test_dead_letters_are_found_with_the_verb_that_lists_them(run: Run, settings: Settings) -> None:
    execute(
        settings,
        "INSERT INTO crossfeed.dead_letter (direction, kind, entity, partition_key, id, reason)"
        " VALUES ('to_postgres', 'refused', 'Account', '[\"a\"]', 'a', 'too long')",
    )
    report = diagnosis(run)
    report.found("dead letters", "1 dead letters of the kind refused", "crossfeed dead-letters list --direction to_pos")


def test_containers_that_are_missing_or_wrong_are_found(run: Run, cosmos: CosmosStore, settings: Settings) -> None:
    with sync_client(settings.require_cosmos(), EMULATOR_KEY) as client:
        database = client.get_database_client(settings.cosmos_database)
        database.delete_container("Accounts")
        database.delete_container("UserProfiles")
        database.create_container("UserProfiles", {"paths": ["/tenant"], "kind": "Hash"})
        sessions = database.get_container_client("GameSessions")
        database.replace_container(sessions, sessions.read()["partitionKey"], default_ttl=60)
    report = diagnosis(run)
    missing = report.found("containers", "of mapping Account does not exist", "run: crossfeed provision")
    assert missing["where"] == f"container Accounts of database {settings.cosmos_database}"
    report.found("containers", "has partition key /tenant", "a new container")
    report.found("containers", "has no TTL", "set its default TTL to -1")
    report.found("containers", "expire after 60 s", "default TTL to -1", "warning")
    assert report.checks["clocks"]["status"] == "ok"
    with sync_client(settings.require_cosmos(), EMULATOR_KEY) as client:
        client.get_database_client(settings.cosmos_database).delete_container("crossfeed-control")
    report = diagnosis(run)
    report.found("containers", "of the relays' markers does not exist", "run: crossfeed provision")
    assert report.checks["clocks"]["status"] == "skipped"
