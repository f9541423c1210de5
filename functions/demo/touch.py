"""Touches every document of which nothing but its content is known, so that it crosses while its content stays."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from core.envelope import Origin
from core.identity import Identity
from core.postgres.names import partition_key_of, table_name
from core.stamp import Stamp
from functions.demo.ledger import Kind, Write
from functions.demo.stores import fetch

if TYPE_CHECKING:
    from core.mapping import EntityMapping
    from functions.demo.ledger import Ledger
    from functions.demo.stores import Stores

BATCH = 100


async def touch_all(stores: Stores, mapping: EntityMapping[Any], ledger: Ledger) -> None:
    """Update every row to what it is already, by plain SQL, a transaction per hundred; capture does the rest."""
    async with stores.engine.connect() as connection:
        every_id = f"SELECT DISTINCT id FROM {table_name(mapping.table)}"  # noqa: S608 - the quoted name of a mapping
        ids = [row[0] for row in await fetch(connection, every_id)]
    for start in range(0, len(ids), BATCH):
        async with stores.engine.begin() as connection:
            touched = await fetch(connection, _touch(mapping), {"ids": ids[start : start + BATCH]})
        at = time.perf_counter()
        for partition_key, id_, epoch, version in touched:
            identity = Identity(mapping.name, partition_key, id_)
            content = ledger.latest[identity].content
            ledger.acknowledged(Write(identity, Kind.UPDATE, Origin.POSTGRES, Stamp(epoch, version), None, content, at))


def _touch(mapping: EntityMapping[Any]) -> str:
    return f"""
        UPDATE {table_name(mapping.table)} t SET id = t.id WHERE t.id = ANY(%(ids)s)
        RETURNING {partition_key_of(mapping, "t")}, t.id, t.crossfeed_epoch, t.crossfeed_version
    """  # noqa: S608 - quoted names of a mapping
