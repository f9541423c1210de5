"""The command line: every wrong set-up is one clear line on stderr and an exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from core.domain.mappings import MAPPINGS
from core.domain.tables import metadata
from core.local.cosmos import EMULATOR_KEY
from core.local.cosmos.storage.file import open_file
from core.mappings import Mappings
from tests.sync_sdk import sync_client

if TYPE_CHECKING:
    from pathlib import Path

    from core.settings import Settings
    from tests.e2e.conftest import Run
    from tests.stores import PostgresServer


@pytest.fixture
async def empty_database(postgres_server: PostgresServer, settings: Settings) -> str:
    """A database without anything in it."""
    return await postgres_server.create_database(f"empty_{settings.cosmos_database}")


def dsn_of(settings: Settings) -> str:
    assert settings.postgres_dsn is not None
    return settings.postgres_dsn.get_secret_value()


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


@pytest.mark.parametrize("process", ["relay", "mirror"])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"postgres_dsn": None}, "CROSSFEED_POSTGRES_DSN is not set"),
        ({"postgres_dsn": "postgresql://me:hunter2@127.0.0.1:9/db"}, "cannot connect to Postgres at 127.0.0.1:9"),
        ({"postgres_dsn": "hunter2://"}, "is not a libpq connection string"),
        ({"cosmos_endpoint": None}, "CROSSFEED_COSMOS_ENDPOINT is not set"),
        ({"cosmos_endpoint": "http://127.0.0.1:9/"}, "no Cosmos DB answers at http://127.0.0.1:9/"),
        ({"cosmos_key": "aHVudGVyMg=="}, "refuses the credentials (401): check CROSSFEED_COSMOS_KEY"),
        ({"cosmos_key": "hunter2"}, "it is not base64"),
        ({"cosmos_database": "nowhere"}, "has no database 'nowhere'"),
        ({"mappings": None}, "CROSSFEED_MAPPINGS is not set"),
        ({"mappings": "core.domain.nowhere:MAPPINGS"}, "cannot import core.domain.nowhere"),
        ({"mappings": "core.domain.mappings:ACCOUNTS"}, "is not a list of EntityMapping"),
        ({"mirror_page_size": "hunter2"}, "CROSSFEED_MIRROR_PAGE_SIZE"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_one_line_on_stderr(run: Run, process: str, wrong: dict[str, str | None], said: str) -> None:
    code, output, errors = run(process, **wrong)
    assert code == 2
    assert output == ""
    [line] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert said in line
    assert "hunter2" not in errors.replace("hunter2.py", "")
    assert "Traceback" not in errors


def test_a_wrong_password_is_named(run: Run, settings: Settings) -> None:
    dsn = dsn_of(settings)
    code, _, errors = run("relay", postgres_dsn=dsn.replace("postgres:", "postgres:not", 1))
    assert code == 2
    assert "password authentication failed" in errors


def test_a_missing_container_is_named_with_its_cure(run: Run, cosmos: object, settings: Settings) -> None:
    with sync_client(settings.require_cosmos(), EMULATOR_KEY) as client:
        client.get_database_client(settings.cosmos_database).delete_container("Accounts")
    code, _, errors = run("mirror")
    assert code == 2
    assert "container 'Accounts' of mapping Account does not exist: create it with partition key /id" in errors


def test_a_pending_migration_is_named_and_cured_by_migrate(run: Run, empty_database: str) -> None:
    code, _, errors = run("relay", postgres_dsn=empty_database)
    assert (code, "is missing in this database; run: crossfeed migrate" in errors) == (2, True)
    code, output, _ = run("migrate", postgres_dsn=empty_database)
    assert (code, output) == (0, "schema crossfeed is current; phase cosmos_only, epoch 1\n")
    assert run("migrate", postgres_dsn=empty_database)[:2] == (code, output)
    execute(empty_database, "UPDATE crossfeed.alembic_version SET version_num = '0000'")
    code, _, errors = run("mirror", postgres_dsn=empty_database)
    assert (code, "at revision 0000" in errors) == (2, True)


def test_a_newer_schema_is_refused_by_every_command(run: Run, empty_database: str) -> None:
    run("migrate", postgres_dsn=empty_database)
    execute(empty_database, "UPDATE crossfeed.alembic_version SET version_num = '9999'")
    for command in (["migrate"], ["relay"], ["mirror"], ["phase", "status"]):
        code, _, errors = run(*command, postgres_dsn=empty_database)
        assert (code, "newer" in errors, "Traceback" in errors) == (2, True, False), command


def test_a_mapping_that_does_not_fit_its_table_is_named(run: Run, settings: Settings) -> None:
    execute(dsn_of(settings), "ALTER TABLE accounts DROP COLUMN role")
    code, _, errors = run("relay")
    assert code == 2
    assert "mapping Account, table accounts: no column role" in errors


def test_a_table_without_capture_is_named_with_the_call_that_installs_it(run: Run, empty_database: str) -> None:
    run("migrate", postgres_dsn=empty_database)
    from sqlalchemy import create_engine  # noqa: PLC0415 - only here

    engine = create_engine(empty_database.replace("postgresql://", "postgresql+psycopg://"))
    metadata.create_all(engine)
    engine.dispose()
    code, _, errors = run("relay", postgres_dsn=empty_database)
    assert code == 2
    assert "call core.postgres.capture.install(op, <the mapping Account>) in a migration of yours" in errors


def test_the_initial_phase_is_chosen_once(run: Run, empty_database: str) -> None:
    choose = ("migrate", "--initial-phase", "dual_write_postgres_read")
    for _ in range(2):
        code, output, _ = run(*choose, postgres_dsn=empty_database)
        assert (code, output) == (0, "schema crossfeed is current; phase dual_write_postgres_read, epoch 2\n")
    code, _, errors = run("migrate", "--initial-phase", "cosmos_only", postgres_dsn=empty_database)
    assert code == 1
    assert "use: crossfeed phase advance" in errors


def test_every_command_has_help_and_exit_codes_are_documented(run: Run) -> None:
    assert "Exit codes" in run("--help")[1]
    for command in ("migrate", "relay", "mirror", "local", "local cosmos", "phase", "demo"):
        code, output, _ = run(*command.split(), "--help")
        assert code == 0
        assert "Usage" in output


def test_what_is_wrong_with_a_local_cosmos_is_one_line_and_an_exit_code(
    run: Run, settings: Settings, tmp_path: Path
) -> None:
    port = settings.require_cosmos().rstrip("/").rpartition(":")[2]
    wrong: list[tuple[list[str], int, str]] = [
        (["--port", port], 1, f"error: cannot listen on 127.0.0.1:{port}: Address already in use"),
        (["--host", "203.0.113.1"], 2, "error: cannot listen on 203.0.113.1: Cannot assign requested address"),
        (["--host", "nowhere.invalid"], 2, "error: cannot listen on nowhere.invalid: "),
        (["--file", str(tmp_path / "no" / "file")], 2, f"error: {tmp_path / 'no' / 'file'} cannot be made: "),
    ]
    for options, expected, said in wrong:
        code, output, errors = run("local", "cosmos", *options)
        assert (code, output) == (expected, "")
        [line] = errors.splitlines()
        assert line.startswith(said)
    for options in (["cosmos", "--port", "65536"], ["cosmos", "--file", str(tmp_path)], ["--json", "cosmos"]):
        code, output, errors = run("local", *options)
        assert (code, output, "Traceback" in errors) == (2, "", False)


def test_a_file_that_another_server_has_is_named(run: Run, tmp_path: Path) -> None:
    connection = open_file(tmp_path / "account.sqlite")
    code, _, errors = run("local", "cosmos", "--file", str(tmp_path / "account.sqlite"))
    connection.close()
    assert (code, errors.splitlines()) == (
        1,
        [f"error: {tmp_path / 'account.sqlite'} is in use: another server has it open."],
    )


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version")[:2] == (0, "0.1.0\n")


def test_the_example_is_mapped() -> None:
    assert len(Mappings(MAPPINGS)) == 4
