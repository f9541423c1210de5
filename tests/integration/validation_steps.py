"""What the tests of validation and repair share: both stores in step in either phase, and quick comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.migration.repair import repair
from core.migration.validation import validate, verify
from core.phases import Phase
from core.postgres.phases import open_phase
from outbox.publisher import Publisher
from outbox.relay import open_relay
from tests.integration.mirror_steps import Steps
from tests.integration.reconcile_steps import hasty, legacy, mirrored

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from core.migration.parity import Difference, Parity
    from core.migration.repair import Repaired
    from core.settings import Settings

# What bypasses the triggers by its nature: nothing is captured, stamped or refused.
BEHIND = "SET LOCAL session_replication_role = replica"


@dataclass
class Compared(Steps):
    """Both stores of one mapping, and what is asked of them."""

    settings: Settings | None = None

    @property
    def quick(self) -> Settings:
        assert self.settings is not None
        return hasty(self.settings)

    async def validate(self, *, deep: bool = False, settle_s: float = 0.0, limit: int = 1000) -> Parity:
        parts = self.engine, self.store, self.mappings, self.quick
        return await validate(*parts, deep=deep, entity=self.mapping.name, settle_s=settle_s, limit=limit)

    async def verify(self, since: datetime | None = None) -> Parity:
        return await verify(self.engine, self.store, self.mappings, await self.phase(), since=since)

    async def repair(
        self,
        differences: Sequence[Difference],
        *,
        dry_run: bool = False,
        settle_s: float = 0.0,
        unnamed: Mapping[str, int] | None = None,
        **values: Any,
    ) -> Repaired:
        parts = self.engine, self.store, self.mappings, self.quick.model_copy(update=values)
        return await repair(*parts, Publisher(*parts), differences, dry_run=dry_run, settle_s=settle_s, unnamed=unnamed)

    async def in_cosmos(self, *ids: str) -> None:
        """Let Cosmos DB be the primary, and the mirror hold its documents."""
        await open_phase(self.engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
        await mirrored(self, *ids)

    async def in_postgres(self, *ids: str) -> None:
        """Let Postgres be the primary, and its rows be published."""
        await open_phase(self.engine, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
        for id_ in ids:
            await self.sql(f"INSERT INTO accounts (id, email) VALUES ('{id_}', '{id_}@example.org')")
        await self.publish()

    async def publish(self) -> None:
        assert self.settings is not None
        await open_relay(self.settings, self.mappings, self.engine, self.store).drain()

    async def sql(self, *statements: str) -> None:
        async with self.engine.begin() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)

    async def replaced(self, id_: str, **properties: Any) -> None:
        """Write a foreign document, which nobody mirrors."""
        await self.store.container(self.mapping).upsert_item(legacy(id_, **properties))


def found(parity: Parity) -> dict[str, str]:
    """Return what was found, the kind by the id."""
    return {one.identity.id: one.kind.value for one in parity.differences}
