"""Finds the dead letter that accounts for a difference: what a store refused, it need not hold.

A letter of either direction does. What one store refused while it followed is not in it after the primary has moved to
it either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.identity import Identity
from core.postgres.dead_letters import REFUSED, identity_columns, storable
from core.postgres.engine import fetch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncConnection

_FIND = """
    SELECT l.entity, l.partition_key, l.id, max(l.number)
    FROM unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[]) AS asked(entity, partition_key, id)
    JOIN crossfeed.dead_letter l ON l.kind = %(kind)s AND l.entity = asked.entity
        AND md5(l.partition_key || l.id)::uuid = md5(asked.partition_key || asked.id)::uuid
        AND l.partition_key = asked.partition_key AND l.id = asked.id
    GROUP BY 1, 2, 3
"""
_ALL = """
    SELECT DISTINCT entity, partition_key, id FROM crossfeed.dead_letter WHERE kind = %(kind)s
"""


async def letters_of(connection: AsyncConnection, identities: Iterable[Identity]) -> dict[Identity, int]:
    """Return the number of the newest letter of each identity of which a store refused a state.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    asked = {_stored(identity): identity for identity in identities}
    if not asked:
        return {}
    rows = await fetch(connection, _FIND, {"kind": REFUSED, **identity_columns(asked)})
    return {asked[Identity(*key)]: number for *key, number in rows}


async def refused_identities(connection: AsyncConnection) -> list[Identity]:
    """Return all identities of which a store refused a state.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    return [Identity(*key) for key in await fetch(connection, _ALL, {"kind": REFUSED})]


def _stored(identity: Identity) -> Identity:
    return Identity(identity.entity, storable(identity.partition_key), storable(identity.id))
