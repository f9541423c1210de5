"""A fault of the program is nobody's dead letter: only what the data itself is to blame for is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.identity import Identity
from core.postgres.phases import read_phase
from outbox import current_state
from outbox.current_state import load
from tests.integration.relay_steps import make_primary, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mappings import Mappings
    from outbox.current_state import Loaded

GOOD = Identity("Account", '["a"]', "a")


async def loaded(engine: AsyncEngine, mappings: Mappings, *identities: Identity) -> Loaded:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        return await load(connection, mappings, identities, await read_phase(connection), 3600)


@pytest.mark.parametrize("fault", [TypeError, ValueError])
async def test_a_fault_of_the_program_makes_no_document_a_dead_letter(
    engine: AsyncEngine, mappings: Mappings, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    async def broken(*_: object) -> None:
        raise fault

    monkeypatch.setattr(current_state, "read_records", broken)
    await make_primary(engine)
    with pytest.raises(fault):
        await loaded(engine, mappings, GOOD)


@pytest.mark.parametrize("key", ['["a","b"]', "[]", "5", "no JSON"])
async def test_a_key_that_is_none_of_its_mapping_is_refused_alone(
    engine: AsyncEngine, mappings: Mappings, key: str
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")
    odd = Identity("Account", key, "a")
    found = await loaded(engine, mappings, odd, GOOD)
    assert [item.identity for item in found.publish] == [GOOD]
    assert list(found.refused) == [odd]
