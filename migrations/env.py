"""Alembic's entry: runs the migrations on the connection that `migrations.upgrade` was given."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

connection = context.config.attributes["connection"]
# Two processes that migrate at once take turns; the lock goes with the transaction.
connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('crossfeed.migrate', 0))"))
connection.execute(text("CREATE SCHEMA IF NOT EXISTS crossfeed"))
context.configure(connection=connection, version_table_schema="crossfeed", target_metadata=None)
context.run_migrations()
