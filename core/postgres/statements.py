"""Runs hand-written SQL through anything that executes, without SQLAlchemy reading binds into it."""

from __future__ import annotations

from typing import Any, Protocol

import sqlalchemy as sa


class Executes(Protocol):
    """An `alembic.op` or a SQLAlchemy Connection."""

    def execute(self, statement: Any, /) -> Any:  # noqa: ANN401 - Alembic and SQLAlchemy differ
        """Run one statement."""


def execute(target: Executes, sql: str) -> None:
    """Run SQL that holds colons (`::text`, `:=`) and no parameters."""
    target.execute(sa.text(sql.replace(":", "\\:")))
