"""What a Postgres of somebody else's may be like: another time zone, an index that a value does not fit into."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from core.content import content_of
from core.domain.account import Account
from core.domain.awkward import documents
from core.phases import Phase
from core.postgres.engine import open_engine
from core.postgres.phases import open_phase
from tests.integration.mirror_steps import Steps

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings


@pytest.mark.parametrize("zone", ["America/New_York", "Pacific/Kiritimati"])
async def test_documents_come_back_to_the_letter_whatever_the_databases_time_zone(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, zone: str
) -> None:
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    async with engine.begin() as connection:
        name = (await connection.exec_driver_sql("SELECT current_database()")).scalar_one()
        await connection.exec_driver_sql(f"ALTER DATABASE \"{name}\" SET timezone = '{zone}'")
    async with open_engine(settings) as elsewhere:
        async with elsewhere.connect() as connection:
            assert (await connection.exec_driver_sql("SHOW timezone")).scalar_one() == zone
        for mapping in mappings:
            steps = Steps(elsewhere, cosmos, mappings, mapping)
            for document in documents()[mapping.container]:
                await steps.foreign(document)
            await steps.apply(steps.history)
            for document in steps.history:
                identity = mapping.identity(document)
                assert await steps.content(identity.id, identity.parts[0]) == content_of(document)


async def test_a_value_too_long_for_its_index_is_a_dead_letter_and_blocks_nothing(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await open_phase(engine, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    steps = Steps(engine, cosmos, mappings, mappings.of(Account))
    await steps.foreign({"id": "long", "Email": secrets.token_hex(8000)})
    await steps.foreign({"id": "good"})
    outcome = await steps.apply(steps.history)
    assert (outcome.applied, outcome.dead_lettered) == (1, 1)
