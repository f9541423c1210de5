"""The schema `crossfeed` as Alembic migrations that travel in the wheel; there is no alembic.ini."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

if TYPE_CHECKING:
    from sqlalchemy import Connection


def configuration() -> Config:
    """Return the Alembic configuration of this package."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def head() -> str:
    """Return the newest revision."""
    revision = ScriptDirectory.from_config(configuration()).get_current_head()
    if revision is None:
        msg = "the package holds no migration"
        raise RuntimeError(msg)
    return revision


def upgrade(connection: Connection) -> None:
    """Bring the schema to the newest revision, in one transaction that the caller commits.

    Raises:
        sqlalchemy.exc.DBAPIError: a statement failed; nothing was changed.
        alembic.util.CommandError: the database knows a revision that this package does not (it is newer).

    """
    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
