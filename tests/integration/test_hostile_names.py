"""Names come from mappings alone, and stand in SQL as names: whatever they hold, all of Crossfeed works on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from pydantic import SecretStr

from changefeed.processor import Processor
from core.crossfeed import Crossfeed
from core.errors import MappingError
from core.mappings import Mappings
from core.migration.backfill_state import Target
from core.migration.erase import erase
from core.phases import Phase
from core.postgres import capture
from core.postgres.canaries import CANARY
from core.postgres.engine import raw
from core.postgres.names import dollar_quoted, literal, quoted, table_name
from core.query import Equals, Order, Query
from outbox.publisher import Publisher
from tests.integration.backfill_steps import filled
from tests.integration.hostile_steps import ALL_AT_ONCE, HOSTILE, field, hostile, install_hostile
from tests.integration.reconcile_steps import passed
from tests.integration.relay_steps import logged, make_primary, run
from tests.integration.validation_steps import BEHIND, Compared, found
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.settings import Settings


_ALONE = ("dollar quotes", "what generated functions fill in", "a reserved word", "a quote that ends a text")
"""What is not in the name that holds nearly everything at once."""

_TEXTS = st.one_of(
    st.text(st.sampled_from("$q01'\"\\:;-{}E \nä"), max_size=12),
    st.sampled_from(["$", "$q0", "a$q0", "$q0$q1", "$q0$$q1$$q2", "\\", "'\\'"]),
)


@dataclass
class Hostile(Compared):
    """An installation whose one mapping carries a text in all its names."""

    text: str = ""

    def entity(self, id_: str, value: str = "old", lines: tuple[str, ...] = ("one", "two")) -> Any:
        names = [f"{kind}/{self.text}" for kind in "plb"]
        items = [{f"v/{self.text}": line} for line in lines]
        values = dict(zip(names, (value, items, "no column"), strict=True))
        return self.mapping.model.model_validate({"id": id_, "owner": self.text, **values})

    async def put(self, phase: Phase) -> None:
        await switch_phase(self.engine, self.store, self.mappings, phase, who="test", why="test")

    async def write(self, *ids: str) -> None:
        assert self.settings is not None
        async with Crossfeed.open(self.settings, self.mappings) as db, db.unit_of_work() as work:
            for id_ in ids:
                await work[self.mapping.model].add(self.entity(id_))
            await work.commit()

    async def look_up(self) -> None:
        """Ask by fields with and without a column, ordered; change one, delete another."""
        assert self.settings is not None
        async with Crossfeed.open(self.settings, self.mappings) as db, db.unit_of_work() as work:
            repository = work[self.mapping.model]
            query = Query((Equals(field(self.text), "OLD", ignore_case=True),), Order(field(self.text)))
            assert [one.id for one in await repository.list(query)] == ["a", "b", "c"]
            assert await repository.count(Query((Equals(f"b {self.text}", "no column"),))) == 3
            one = await repository.get_by_id("a", partition_key=self.text)
            other = await repository.get_by_id("b", partition_key=self.text)
            assert one is not None
            assert other is not None
            await repository.update(one.model_copy(update={field(self.text): "new", f"l {self.text}": []}))
            await repository.delete(other)
            await work.commit()

    async def mirror(self) -> None:
        await Processor(self.engine, self.store, self.mappings).run_once()

    async def erased(self, id_: str) -> bool:
        parts = self.engine, self.store, self.mappings, self.quick.model_copy(update={"tombstone_ttl_s": 3600})
        return (await erase(*parts, Publisher(*parts), self.mapping.identity_of(self.text, id_))).was_there

    async def values(self) -> dict[str, str]:
        sql = f"SELECT id, {quoted(field(self.text))} FROM {table_name(self.mapping.table)}"
        async with self.engine.connect() as connection:
            return dict(map(tuple, await connection.exec_driver_sql(sql)))

    async def is_precious(self) -> bool:
        async with self.engine.connect() as connection:
            return (await connection.exec_driver_sql("SELECT to_regclass('precious')")).scalar_one() is not None


@pytest.fixture
def text(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def both(text: str, settings: Settings, engine: AsyncEngine, cosmos: CosmosStore) -> Hostile:
    mapping = hostile(text)
    await install_hostile(engine, mapping)
    await cosmos.provision([mapping])
    erasing = settings.model_copy(update={"erase_key": SecretStr("k"), "log_level": "debug"})
    return Hostile(engine, cosmos, Mappings([mapping]), mapping, settings=erasing, text=text)


@pytest.mark.parametrize(
    "text",
    [pytest.param(text, id=name, marks=[] if name in _ALONE else pytest.mark.chaos) for name, text in HOSTILE.items()],
)
async def test_capture_works_on_names_that_mean_something_in_sql(engine: AsyncEngine, text: str) -> None:
    mapping = hostile(text)
    table, key, value = table_name(mapping.table), quoted(f"k {text}"), quoted(field(text))
    await install_hostile(engine, mapping)
    await make_primary(engine)
    await run(
        engine,
        f"INSERT INTO {table} ({key}, id, {value}) VALUES ('k', 'a', 'one'), ('k', 'b', 'two')",
        f"UPDATE {table} SET {key} = 'l', {value} = 'three' WHERE id = 'a'",
        f"DELETE FROM {table} WHERE id = 'b'",
    )
    assert [(message.key, message.id, message.deleted) for message in await logged(engine)] == [
        ('["k"]', "a", False),
        ('["k"]', "b", False),
        ('["l"]', "a", False),
        ('["k"]', "a", True),
        ('["k"]', "b", True),
    ]
    async with engine.connect() as connection:
        found = await connection.exec_driver_sql(
            "SELECT DISTINCT entity, to_regclass('precious') FROM crossfeed.outbox"
        )
        assert [tuple(row) for row in found] == [(f"e {text}", "precious")]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(ALL_AT_ONCE, id="all of them at once"),
        *(pytest.param(text, id=name, marks=pytest.mark.chaos) for name, text in HOSTILE.items()),
    ],
    indirect=True,
)
async def test_everything_works_on_names_that_mean_something_in_sql(both: Hostile) -> None:
    assert both.settings is not None
    table, value = table_name(both.mapping.table), quoted(field(both.text))
    # Cosmos DB is the primary: the mirror, the reconcile pass and a backfill write the rows.
    await both.put(Phase.DUAL_WRITE_COSMOS_READ)
    await both.write("a", "b", "c")
    await both.mirror()
    await both.look_up()
    await both.mirror()
    assert await both.values() == {"a": "new", "c": "old"}
    await both.sql(BEHIND, f"DELETE FROM {quoted(str(both.mapping.table.schema))}.{quoted(f'c {both.text}')}")
    await both.sql(BEHIND, f"DELETE FROM {table}")
    assert (await filled(both, both.settings, Target.POSTGRES)).sent == 2
    assert await both.values() == {"a": "new", "c": "old"}
    await passed(both, both.settings)
    # Postgres is the primary: capture, the relay, the repositories and a backfill the other way.
    await both.put(Phase.DUAL_WRITE_POSTGRES_READ)
    await both.write("d")
    await both.sql(f"UPDATE {table} SET {value} = 'raw' WHERE id = 'c'")
    await both.publish()
    assert (await both.validate(deep=True)).is_equal
    await both.sql(BEHIND, f"UPDATE {table} SET {value} = 'silent' WHERE id = 'c'")
    parity = await both.validate(deep=True)
    assert found(parity) == {"c": "different"}
    assert (await both.repair(parity.differences)).written == 1
    assert (await both.validate(deep=True)).is_equal
    assert await both.erased("c")
    await filled(both, both.settings, Target.COSMOS)
    assert (await both.validate(deep=True)).is_equal
    assert sorted(await both.values()) == ["a", "d"]
    assert await both.is_precious()


async def test_a_type_that_would_be_taken_for_one_of_ours_is_refused(engine: AsyncEngine) -> None:
    mapping = hostile("plain")
    mapping.name = CANARY
    async with engine.begin() as connection:
        with pytest.raises(MappingError, match="'crossfeed:' are reserved"):
            await connection.run_sync(capture.install, mapping)


async def test_a_percent_sign_is_refused_since_it_is_a_placeholder_to_the_driver(engine: AsyncEngine) -> None:
    mapping = hostile("100%(x)s")
    async with engine.begin() as connection:
        with pytest.raises(MappingError, match="percent sign"):
            await connection.run_sync(capture.install, mapping)


@pytest.mark.parametrize("conforming", ["on", "off"])
@settings_of_hypothesis(max_examples=15)
@given(texts=st.lists(_TEXTS, min_size=20, max_size=20))
async def test_a_text_that_is_quoted_comes_back_to_the_letter(
    engine: AsyncEngine, conforming: str, texts: list[str]
) -> None:
    asked = ", ".join(f"{literal(text)}, {dollar_quoted(text)}" for text in texts)
    async with engine.begin() as connection:
        driver = await raw(connection)
        await driver.execute(f"SET LOCAL standard_conforming_strings = {conforming}".encode())
        [found] = await (await driver.execute(f"SELECT {asked}".encode())).fetchall()
    assert list(found) == [text for text in texts for _ in range(2)]
