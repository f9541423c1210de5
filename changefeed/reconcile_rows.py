"""Reads every row for a reconcile pass: those of which no document was seen are doubted.

An anti-join, bucket by bucket. A bucket is a run of blocks of the table: to walk a table that way needs no index of the
digest, every row that is not written meanwhile is in exactly one bucket, and the place can be saved. (A row that is
written meanwhile may be missed or seen twice; it has just been taken from a document.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from core.postgres.names import literal, partition_key_of, table_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.mapping import EntityMapping

BLOCKS = 128
"""How many blocks of a table (of 8 kB) make a bucket."""

# A partitioned table has no blocks of its own; to a plain one the function has nothing to say.
_LEAVES = """
    SELECT leaf::text, pg_relation_size(leaf) / current_setting('block_size')::bigint FROM (
        SELECT relid AS leaf FROM pg_partition_tree(%(table)s::regclass) WHERE isleaf
        UNION SELECT %(table)s::regclass WHERE NOT EXISTS (SELECT FROM pg_partition_tree(%(table)s::regclass))
    ) AS leaves ORDER BY leaf::oid
"""
_ABOUT = """
    SELECT coalesce(sum(greatest(reltuples, 0)), 0)::bigint FROM pg_class
    WHERE oid = ANY(%(tables)s::text[]::regclass[])
        OR oid IN (SELECT relid FROM unnest(%(tables)s::text[]) AS t, pg_partition_tree(t::regclass) WHERE isleaf)
"""
_COUNT = "SELECT count(*) FROM {table}"

# What was seen is in a table without statistics: a plan by guesses could hash all of it for every bucket.
_BY_INDEX = "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"


class Bucket(NamedTuple):
    """How many rows a bucket has, and how many of them without a document."""

    rows: int
    doubted: int


async def leaves_of(connection: AsyncConnection, mapping: EntityMapping[Any]) -> list[tuple[str, int]]:
    """Return the tables that hold the rows of a mapping, each with its number of blocks."""
    found = await connection.exec_driver_sql(_LEAVES, {"table": table_name(mapping.table)})
    return [(name, blocks) for name, blocks in map(tuple, found)]


async def rows_about(connection: AsyncConnection, mappings: Sequence[EntityMapping[Any]]) -> int:
    """Return about how many rows there are: counted only where Postgres has no statistics yet."""
    tables = [table_name(mapping.table) for mapping in mappings]
    about: int = (await connection.exec_driver_sql(_ABOUT, {"tables": tables})).scalar_one()
    if about:
        return about
    counts = [(await connection.exec_driver_sql(_COUNT.format(table=table))).scalar_one() for table in tables]
    return sum(counts)


async def doubt_rows(connection: AsyncConnection, mapping: EntityMapping[Any], leaf: str, first: int) -> Bucket:
    """Doubt the rows of one bucket of which no document was seen, in the caller's transaction.

    Args:
        connection: in a transaction.
        mapping: whose rows.
        leaf: a table that `leaves_of` named.
        first: the first block of the bucket.

    """
    await connection.exec_driver_sql(_BY_INDEX)
    window = {"first": f"({first},0)", "beyond": f"({first + BLOCKS},0)"}
    rows, doubted = tuple((await connection.exec_driver_sql(doubt_statement(mapping, leaf), window)).one())
    return Bucket(rows, doubted)


def doubt_statement(mapping: EntityMapping[Any], leaf: str) -> str:
    """Return the anti-join of one bucket, between the blocks `first` and `beyond`."""
    entity = literal(mapping.name)
    return f"""
        WITH bucket AS MATERIALIZED (
            SELECT {partition_key_of(mapping, "t")} AS partition_key, t.id::text AS id, t.crossfeed_epoch AS epoch,
                t.crossfeed_version AS version, t.crossfeed_etag AS etag, t.crossfeed_ts AS ts, t.crossfeed_lsn AS lsn
            FROM ONLY {leaf} t WHERE t.ctid >= %(first)s::tid AND t.ctid < %(beyond)s::tid
        ), doubted AS (
            INSERT INTO crossfeed.reconcile_doubt (kind, entity, partition_key, id, epoch, version, etag, ts, lsn)
            SELECT 'absent', {entity}, b.* FROM bucket b
            WHERE NOT EXISTS (SELECT FROM crossfeed.reconcile_seen s
                WHERE s.digest = md5({entity} || b.partition_key || b.id)::uuid)
            ON CONFLICT DO NOTHING RETURNING 1
        )
        SELECT (SELECT count(*) FROM bucket), (SELECT count(*) FROM doubted)
    """
