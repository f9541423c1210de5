"""Names the rights that a relay's role needs and lacks, at start, where an operator reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.errors import ConfigurationError
from core.postgres.names import table_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.mapping import EntityMapping

# On our own tables; a test runs a relay under a role that has these and no others.
_OURS = {
    "crossfeed.alembic_version": ("SELECT",),
    "crossfeed.captured": ("SELECT",),
    "crossfeed.dead_letter": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "crossfeed.lineage": ("SELECT",),
    "crossfeed.outbox": ("SELECT", "INSERT"),
    "crossfeed.outbox_partition": ("SELECT",),
    "crossfeed.parked": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "crossfeed.phase": ("SELECT",),
    "crossfeed.relay": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "crossfeed.slot": ("SELECT", "UPDATE"),
    "crossfeed.tombstone": ("SELECT", "INSERT", "UPDATE"),
}
_MAPPED = ("SELECT", "UPDATE")
"""The second for rows that stand behind their own tombstone: they are lifted above it."""
_CHILD = ("SELECT",)

_LACKING = """
    SELECT current_user::text, object, privilege FROM unnest(%(objects)s::text[], %(privileges)s::text[])
        AS wanted(object, privilege)
    WHERE NOT CASE WHEN strpos(object, 'schema ') = 1 THEN has_schema_privilege(substr(object, 8), privilege)
        ELSE has_table_privilege(object, privilege) END
"""


def relay_rights(mappings: Iterable[EntityMapping[Any]]) -> list[tuple[str, str]]:
    """Return (object, privilege) as GRANT spells them: everything that a relay of these mappings needs."""
    rights = [("schema crossfeed", "USAGE")]
    rights += [(table, privilege) for table, privileges in _OURS.items() for privilege in privileges]
    for mapping in mappings:
        rights += [(table_name(mapping.table), privilege) for privilege in _MAPPED]
        rights += [(table_name(child.table), privilege) for child in mapping.children for privilege in _CHILD]
    return rights


async def check_rights(connection: AsyncConnection, mappings: Iterable[EntityMapping[Any]]) -> None:
    """Compare the rights of the connection's role with what a relay needs.

    Raises:
        ConfigurationError: some are missing; the message is made of the statements that grant them.

    """
    objects, privileges = zip(*relay_rights(mappings), strict=True)
    found = await connection.exec_driver_sql(_LACKING, {"objects": list(objects), "privileges": list(privileges)})
    lacking: dict[str, list[str]] = {}
    role = ""
    for role, name, privilege in map(tuple, found):  # noqa: B007 - it is the same in every row
        lacking.setdefault(name, []).append(privilege)
    if lacking:
        grants = "; ".join(f'GRANT {", ".join(of)} ON {name} TO "{role}"' for name, of in lacking.items())
        msg = f"the role {role} of CROSSFEED_POSTGRES_DSN lacks rights; run: {grants}"
        raise ConfigurationError(msg)
