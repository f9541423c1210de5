"""Brings the schema `crossfeed` to this package's revision, for the command line and the demo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic.util import CommandError

import migrations
from core.errors import SchemaError
from core.postgres.failures import translated

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


async def upgrade(engine: AsyncEngine) -> None:
    """Run the migrations that are missing, in one transaction.

    Raises:
        SchemaError: the schema is newer than this package.
        CrossfeedError: a statement failed; nothing was changed.

    """
    try:
        with translated("migrating"):
            async with engine.begin() as connection:
                await connection.run_sync(migrations.upgrade)
    except CommandError as error:
        msg = f"the schema 'crossfeed' is newer than this program; upgrade the program ({error})"
        raise SchemaError(msg) from error
