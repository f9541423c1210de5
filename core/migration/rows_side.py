"""Reads of all rows of a table what a comparison needs: digests in one pass, single rows where those differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from core.identity import Identity
from core.migration.digests import FIRST_BITS, Digest, key_hash_sql, token_sql, unsigned
from core.migration.spool import Row
from core.postgres.engine import fetch, raw
from core.postgres.failures import translated
from core.postgres.names import partition_key_of, table_name
from core.stamp import Stamp

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from core.mapping import EntityMapping

_FETCHED: Final = 2000
# Epochs count up through steps and re-syncs of a whole installation: there are dozens.
_COSMOS_EPOCHS = "SELECT epoch FROM crossfeed.phase_history WHERE phase < 2"


class RowsSide:
    """The rows of one mapping.

    Args:
        engine: the database.
        mapping: whose table.
        cosmos_epochs: the epochs in which Cosmos DB was the primary (`cosmos_epochs_of`).

    """

    def __init__(self, engine: AsyncEngine, mapping: EntityMapping[Any], cosmos_epochs: frozenset[int]) -> None:
        self._engine = engine
        self._mapping = mapping
        self._epochs = sorted(cosmos_epochs)

    async def digests(self) -> dict[int, Digest]:
        """Return the digest of all rows, in the buckets of the first comparison.

        Raises:
            StoreUnavailableError: Postgres did not answer.

        """
        return await self._digests(digests_statement(self._mapping), {"mask": (1 << FIRST_BITS) - 1})

    async def finer(self, parent: int, buckets: set[int], mask: int) -> dict[int, Digest]:
        """Return the digests in the buckets of `mask` of what is in `buckets` of the mask `parent`; see `digests`."""
        where = "WHERE h & %(parent)s::bigint = ANY(%(buckets)s::bigint[])"
        facts = {"mask": mask, "parent": parent, "buckets": sorted(buckets)}
        return await self._digests(digests_statement(self._mapping, where), facts)

    async def _digests(self, statement: str, facts: dict[str, Any]) -> dict[int, Digest]:
        with translated(f"reading the digests of {self._mapping.name}"):
            async with self._engine.connect() as connection:
                found = await fetch(connection, statement, {**facts, "cosmos_epochs": self._epochs})
        return {bucket: Digest(count, unsigned(xor)) for bucket, count, xor in found}

    async def single(self, mask: int, buckets: set[int]) -> AsyncGenerator[list[tuple[int, Row]]]:
        """Yield the rows of some buckets with their bucket, some at a time in no order, as of one moment.

        Raises:
            StoreUnavailableError: Postgres did not answer.

        """
        facts = {"mask": mask, "buckets": sorted(buckets)}
        with translated(f"reading rows of {self._mapping.name}"):
            async with self._engine.begin() as connection:
                driver = await raw(connection)
                async with driver.cursor(name="crossfeed_rows") as cursor:  # lives as long as this transaction
                    await cursor.execute(_single(self._mapping), facts)
                    while found := await cursor.fetchmany(_FETCHED):
                        yield [self._row(*facts) for facts in found]

    def _row(  # noqa: PLR0913, PLR0917 - the columns of the statement
        self, bucket: int, partition_key: str, id_: str, epoch: int, version: int, etag: str | None
    ) -> tuple[int, Row]:
        return bucket, Row(Identity(self._mapping.name, partition_key, id_), Stamp(epoch, version), etag)


async def cosmos_epochs_of(connection: AsyncConnection) -> frozenset[int]:
    """Return the epochs in which Cosmos DB was the primary."""
    return frozenset(epoch for (epoch,) in await fetch(connection, _COSMOS_EPOCHS, {}))


def digests_statement(mapping: EntityMapping[Any], where: str = "") -> str:
    """Return the statement that reads digests in one pass over the table.

    The OFFSET keeps the planner from looking into the subquery. Each hash is then computed once, and few buckets are
    expected, not as many as there are identities: so parallel workers make digests of their own, in hardly any memory.
    (A plain OFFSET 0 is a conversion to bigint when the planner asks whether the subquery may be parallel: then it may
    not.)

    Args:
        mapping: whose table.
        where: a condition on the hash of the identity, `h`; none for all rows.

    """
    return f"""
        SELECT h & %(mask)s::bigint, count(*), bit_xor(hashint8extended(h # token, 0)) FROM (
            SELECT {key_hash_sql(mapping, "t")} AS h, {token_sql("t")} AS token FROM {table_name(mapping.table)} t
            OFFSET '0'::bigint
        ) AS state {where} GROUP BY 1
    """


def _single(mapping: EntityMapping[Any]) -> str:
    bucket = f"{key_hash_sql(mapping, 't')} & %(mask)s::bigint"
    return f"""
        SELECT {bucket}, {partition_key_of(mapping, "t")}, t.id::text, t.crossfeed_epoch, t.crossfeed_version,
            t.crossfeed_etag
        FROM {table_name(mapping.table)} t WHERE {bucket} = ANY(%(buckets)s::bigint[])
    """
