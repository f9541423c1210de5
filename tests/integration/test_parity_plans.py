"""The digests of rows are those of documents, and Postgres makes them in one parallel pass over the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from core.domain.mappings import ACCOUNTS
from core.entity import Entity
from core.identity import Identity, KeyPart
from core.mapping import EntityMapping
from core.migration import comparison
from core.migration.digests import etag_token, key_hash, number_hash, stamp_token, state_hash, text_hash
from core.migration.rows_side import RowsSide, digests_statement
from core.stamp import Stamp
from tests.integration.reconcile_steps import hard_delete
from tests.integration.test_relay_plans import nodes
from tests.integration.validation_steps import BEHIND, Compared, found

if TYPE_CHECKING:
    import pytest
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.settings import Settings

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
LONGS = st.integers(0, 2**64 - 1)


class Place(Entity):
    """An entity whose key has a level of every kind."""

    floor: int
    name: str | None = None


PLACES = EntityMapping(
    Place,
    table=sa.Table(
        "places",
        sa.MetaData(),
        sa.Column("id", sa.String(80)),
        sa.Column("floor", sa.Numeric),
        sa.Column("name", sa.Text),
        sa.UniqueConstraint("floor", "name", "id"),
    ),
    container="Places",
    partition_key=("/floor", "/name"),
)


@given(text=TEXTS, seed=LONGS, number=LONGS)
@examples(max_examples=60)
async def test_the_client_hashes_as_postgres_does(engine: AsyncEngine, text: str, seed: int, number: int) -> None:
    sql = """
        SELECT hashtextextended(%(text)s::text COLLATE "C", %(seed)s::bigint), hashint8extended(%(number)s::bigint, 0)
    """
    facts = {"text": text, "seed": _signed(seed), "number": _signed(number)}
    async with engine.connect() as connection:
        [(found_text, found_number)] = map(tuple, await connection.exec_driver_sql(sql, facts))
    assert (_signed(text_hash(text.encode(), seed)), _signed(number_hash(number))) == (found_text, found_number)


async def test_rows_and_documents_of_every_kind_of_key_have_the_same_digests(engine: AsyncEngine) -> None:
    keys: list[tuple[list[KeyPart], str, Stamp, str | None]] = [
        ([1, "a"], "x", Stamp(3, 1), None),
        ([1.5, "ß é 😀"], "İd with spaces", Stamp(3, 2**52), '"0"'),
        ([-7, None], "n", Stamp(2, 1), '"1"'),
        ([10**15, ""], "", Stamp(2, 2), None),
    ]
    async with engine.begin() as connection:
        await connection.exec_driver_sql("""
            CREATE TABLE places (id varchar(80), floor numeric, name text, crossfeed_epoch bigint,
                crossfeed_version bigint, crossfeed_etag text)
        """)
        for (floor, name), id_, stamp, etag in keys:
            await connection.exec_driver_sql(
                "INSERT INTO places VALUES (%s, %s, %s, %s, %s, %s)", (id_, floor, name, *stamp, etag)
            )
    mask = 2**62 - 1
    expected = {}
    for parts, id_, stamp, etag in keys:
        key = key_hash(PLACES, Identity.of("Place", parts, id_))
        token = stamp_token(stamp) if stamp.epoch == 3 else etag_token(etag or "")
        expected[key & mask] = (1, state_hash(key, token))
    rows = RowsSide(engine, PLACES, frozenset({1, 2}))
    assert await rows.finer(mask, set(expected), mask) == expected
    assert sum(digest.states for digest in (await rows.digests()).values()) == len(keys)


async def test_the_digests_are_one_parallel_pass_that_sorts_no_rows(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql(BEHIND)
        await connection.exec_driver_sql(
            "INSERT INTO accounts (id, display_name, crossfeed_epoch, crossfeed_version)"
            " SELECT md5(n::text), repeat('x', 300), 3, 1 FROM generate_series(1, 20000) n"
        )
        await connection.exec_driver_sql("ANALYZE accounts")
        await connection.exec_driver_sql("SET LOCAL min_parallel_table_scan_size = '1MB'")
        await connection.exec_driver_sql("SET LOCAL max_parallel_workers_per_gather = 2")
        await connection.exec_driver_sql("SET LOCAL parallel_setup_cost = 0")  # the table is small
        statement = f"EXPLAIN (FORMAT JSON) {digests_statement(ACCOUNTS)}"
        parameters: dict[str, Any] = {"mask": 1023, "cosmos_epochs": [1, 2]}
        [plan] = (await connection.exec_driver_sql(statement, parameters)).scalar_one()
    steps = list(nodes(plan["Plan"]))
    [scan] = [one for one in steps if one["Node Type"] == "Seq Scan"]
    assert scan["Parallel Aware"]
    [partial] = [one for one in steps if one.get("Partial Mode") == "Partial"]
    assert partial["Strategy"] == "Hashed"
    assert all(one["Plan Rows"] < 1000 for one in steps if "Sort" in one["Node Type"]), "of buckets, not of rows"


async def test_few_differences_in_large_buckets_are_found_through_finer_ones(
    engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "MANY", 1)
    cuts: list[tuple[int, int]] = []
    finer = RowsSide.finer

    async def counting(self: RowsSide, parent: int, buckets: set[int], mask: int) -> dict[int, Any]:
        cut = await finer(self, parent, buckets, mask)
        cuts.append((len(buckets), len(cut)))
        return cut

    monkeypatch.setattr(RowsSide, "finer", counting)
    both = Compared(engine, cosmos, mappings, ACCOUNTS, settings=settings)
    await both.in_cosmos(*[f"a{number}" for number in range(12)])
    assert (await both.validate()).is_equal
    assert cuts == []
    await both.replaced("a3", DisplayName="x")
    await hard_delete(both, "a5")
    await both.replaced("b")
    assert found(await both.validate()) == {"a3": "stale", "a5": "extra", "b": "missing"}
    assert cuts == [(3, 2)], "three buckets of identities, and in two of them a row"
    monkeypatch.setattr(comparison, "_FEW_BUCKETS", 2)
    assert found(await both.validate()) == {"a3": "stale", "a5": "extra", "b": "missing"}
    assert len(cuts) == 1, "where much differs there is little to narrow down"


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
