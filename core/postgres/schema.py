"""Refuses to run on a schema that this code does not know, with the command that cures it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from core.errors import SchemaError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

REVISION = "0001"
"""The newest revision of the package `migrations` (a test holds the two together)."""

_EXISTS = text("SELECT to_regclass('crossfeed.alembic_version') IS NOT NULL")
_READ = text("SELECT version_num FROM crossfeed.alembic_version")


async def check_schema(connection: AsyncConnection) -> None:
    """Compare the schema's revision with this code's.

    Raises:
        SchemaError: missing, older (run `crossfeed migrate`) or newer (upgrade this process).

    """
    if not (await connection.execute(_EXISTS)).scalar_one():
        msg = "the schema 'crossfeed' is missing in this database; run: crossfeed migrate"
        raise SchemaError(msg)
    found = (await connection.execute(_READ)).scalar_one_or_none()
    if found is None or found < REVISION:
        msg = f"the schema 'crossfeed' is at revision {found}, this code needs {REVISION}; run: crossfeed migrate"
        raise SchemaError(msg)
    if found > REVISION:
        msg = f"the schema 'crossfeed' is at revision {found}, newer than {REVISION} of this code; upgrade this process"
        raise SchemaError(msg)
