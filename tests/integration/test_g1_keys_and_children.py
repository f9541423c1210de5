"""G1 where one statement is many changes: keys that move from row to row, and tables below an aggregate's root."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from pydantic import BaseModel, Field

from core.children import ChildTable
from core.entity import Entity
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.postgres import capture
from core.postgres.held import read_held
from outbox.relay import Relay
from tests.integration.relay_steps import Logged, MemorySink, logged, make_primary, run, versions

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings


class Seat(Entity):
    """A key that may be handed over within a statement: its primary key is checked at the end."""

    guest: str = ""


class Line(BaseModel):
    item: str = ""


class Order(Entity):
    """An aggregate whose lines have a table of their own."""

    customer: str = ""
    lines: list[Line] = Field(default_factory=list)


_METADATA = sa.MetaData()
SEATS = EntityMapping(
    Seat,
    table=sa.Table(
        "seats",
        _METADATA,
        sa.Column("id", sa.Text),
        sa.Column("guest", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", deferrable=True, initially="DEFERRED"),
    ),
    container="Seats",
    partition_key="/id",
)
_ORDER_LINES = sa.Table(
    "order_lines",
    _METADATA,
    sa.Column("order_id", sa.Text, sa.ForeignKey("orders.id"), primary_key=True),
    sa.Column("line", sa.Integer, primary_key=True),
    sa.Column("item", sa.Text, nullable=False),
)
ORDERS = EntityMapping(
    Order,
    table=sa.Table(
        "orders",
        _METADATA,
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("customer", sa.Text, nullable=False, server_default=""),
    ),
    container="Orders",
    partition_key="/id",
    children=[ChildTable("lines", _ORDER_LINES, parent=("order_id",), position="line")],
)
MAPPED = Mappings([SEATS, ORDERS])


@pytest.fixture
async def installed(engine: AsyncEngine) -> AsyncEngine:
    """A database with these tables captured and Postgres primary."""
    async with engine.begin() as connection:
        await connection.run_sync(_METADATA.create_all)
        for mapping in MAPPED:
            await connection.run_sync(capture.install, mapping)
    await make_primary(engine)
    return engine


async def seated(engine: AsyncEngine, **seats: int) -> None:
    """Put a guest on every seat, whose row has been written this often."""
    for seat, version in seats.items():
        await run(engine, f"INSERT INTO seats VALUES ('{seat}', 'of {seat}')")
        await run(engine, *[f"UPDATE seats SET guest = guest WHERE id = '{seat}'"] * (version - 1))


async def delivered(engine: AsyncEngine, settings: Settings, sink: MemorySink) -> dict[str, tuple[str | None, int]]:
    """Relay, and return what the target holds of every seat: the guest (None: deleted) and the version."""
    relay = Relay(settings, MAPPED, engine, sink)
    await relay.drain()
    assert relay.stats.dead_lettered == 0
    return {
        identity.id: (None if item.deleted else item.document["guest"], item.stamp.version)
        for identity, item in sink.states.items()
    }


async def test_a_changed_key_is_a_delete_of_the_old_and_an_upsert_of_the_new(engine: AsyncEngine) -> None:
    await make_primary(engine)
    await run(
        engine,
        "INSERT INTO pending_signups (id, email) VALUES ('s', 'old@example.org'), ('t', 'other@example.org')",
        "UPDATE pending_signups SET email = 'new@example.org' WHERE id = 's'",
    )
    assert (await logged(engine))[2:] == [
        Logged('["new@example.org"]', "s", 2, deleted=False),
        Logged('["old@example.org"]', "s", 2, deleted=True),
    ]


async def test_a_chain_of_keys_in_one_statement_gives_each_key_a_newer_version(
    installed: AsyncEngine, settings: Settings
) -> None:
    sink = MemorySink()
    await seated(installed, a=2, b=9)
    assert await delivered(installed, settings, sink) == {"a": ("of a", 2), "b": ("of b", 9)}
    await run(installed, "UPDATE seats SET id = CASE id WHEN 'a' THEN 'b' ELSE 'c' END")
    assert await versions(installed, "seats") == {"b": 10, "c": 10}
    assert await delivered(installed, settings, sink) == {"a": (None, 3), "b": ("of a", 10), "c": ("of b", 10)}


async def test_two_keys_that_swap_in_one_statement_both_get_newer_versions(
    installed: AsyncEngine, settings: Settings
) -> None:
    sink = MemorySink()
    await seated(installed, a=2, b=9)
    await delivered(installed, settings, sink)
    await run(installed, "UPDATE seats SET id = CASE id WHEN 'a' THEN 'b' ELSE 'a' END")
    assert await versions(installed, "seats") == {"a": 10, "b": 10}
    assert await delivered(installed, settings, sink) == {"a": ("of b", 10), "b": ("of a", 10)}


async def test_what_a_users_trigger_does_while_a_key_is_handed_over_is_captured_too(installed: AsyncEngine) -> None:
    await seated(installed, a=2, b=9)
    await run(
        installed,
        "INSERT INTO orders (id) VALUES ('o')",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN UPDATE orders SET customer = customer || NEW.id; RETURN NULL; END $$",
        "CREATE TRIGGER note AFTER UPDATE ON seats FOR EACH ROW EXECUTE FUNCTION note()",
        "UPDATE seats SET id = CASE id WHEN 'a' THEN 'b' ELSE 'a' END",
    )
    assert await versions(installed, "seats") == {"a": 10, "b": 10}
    of_order = [item.version for item in await logged(installed) if item.id == "o"]
    assert of_order == list(range(1, (await versions(installed, "orders"))["o"] + 1))


async def test_two_keys_that_swap_in_two_statements_are_delivered_in_their_last_state(
    installed: AsyncEngine, settings: Settings
) -> None:
    sink = MemorySink()
    await seated(installed, a=2, b=9)
    await delivered(installed, settings, sink)
    async with installed.begin() as connection:  # the second statement buries the key that the first has taken over
        await connection.exec_driver_sql("UPDATE seats SET id = 'b' WHERE guest = 'of a'")
        await connection.exec_driver_sql("UPDATE seats SET id = 'a' WHERE guest = 'of b'")
    found = await delivered(installed, settings, sink)
    assert {seat: guest for seat, (guest, _) in found.items()} == {"a": "of b", "b": "of a"}
    assert found["a"][1] > 2
    assert found["b"][1] > 9
    assert await versions(installed, "seats") == {seat: version for seat, (_, version) in found.items()}


async def test_a_statement_on_a_child_table_bumps_each_root_once(installed: AsyncEngine, settings: Settings) -> None:
    await run(
        installed,
        "INSERT INTO orders (id) VALUES ('o1'), ('o2'), ('o3')",
        "INSERT INTO order_lines VALUES ('o1', 0, 'x'), ('o1', 1, 'y'), ('o1', 2, 'z'), ('o2', 0, 'u')",
    )
    assert await versions(installed, "orders") == {"o1": 2, "o2": 2, "o3": 1}
    await run(installed, "UPDATE order_lines SET item = 'w' WHERE order_id = 'o1'")
    assert await versions(installed, "orders") == {"o1": 3, "o2": 2, "o3": 1}
    await run(installed, "UPDATE order_lines SET order_id = 'o3', line = 5 WHERE order_id = 'o1' AND line = 2")
    assert await versions(installed, "orders") == {"o1": 4, "o2": 2, "o3": 2}
    await run(installed, "DELETE FROM order_lines WHERE order_id = 'o2'", "DELETE FROM order_lines WHERE false")
    assert await versions(installed, "orders") == {"o1": 4, "o2": 3, "o3": 2}
    bumps = [("o1", 2), ("o1", 3), ("o1", 4), ("o2", 2), ("o2", 3), ("o3", 2)]
    assert sorted((item.id, item.version) for item in (await logged(installed))[3:]) == bumps
    sink = MemorySink()
    await Relay(settings, MAPPED, installed, sink).drain()
    lines = {identity.id: item.document["lines"] for identity, item in sink.states.items()}
    assert lines == {"o1": [{"item": "w"}, {"item": "w"}], "o2": [], "o3": [{"item": "w"}]}


async def test_a_rolled_back_child_leaves_its_root_as_it_was(installed: AsyncEngine) -> None:
    await run(installed, "INSERT INTO orders (id) VALUES ('o1')")
    async with installed.connect() as connection:
        await connection.exec_driver_sql("INSERT INTO order_lines VALUES ('o1', 0, 'x')")
        held = (await read_held(connection, ORDERS, [ORDERS.identity_of("o1", "o1")]))[0]
        assert held.stamp is not None
        assert held.stamp.version == 2
        await connection.rollback()
    assert await versions(installed, "orders") == {"o1": 1}
    assert len(await logged(installed)) == 1


@pytest.mark.parametrize("first", ["id IN ('1', '2')", "true"])
async def test_a_statement_of_many_rows_is_compared_in_one_go(installed: AsyncEngine, first: str) -> None:
    many = 20_000
    async with installed.begin() as connection:
        await connection.exec_driver_sql(f"INSERT INTO seats SELECT n::text, '' FROM generate_series(1, {many}) AS n")
        # Each row against each other takes minutes. A session keeps the plans of its first statement.
        await connection.exec_driver_sql("SET LOCAL statement_timeout = '5s'")
        await connection.exec_driver_sql(f"UPDATE seats SET guest = 'a' WHERE {first}")
        await connection.exec_driver_sql("UPDATE seats SET guest = 'b'")
    assert {message.version for message in await logged(installed)} >= {1, 3}
