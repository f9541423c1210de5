"""Names the rights that a process's role needs and lacks, at start, where an operator reads it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from core.errors import ConfigurationError
from core.postgres.names import quoted, table_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.mapping import EntityMapping


@dataclass(frozen=True, slots=True)
class _Rights:
    """On our own objects, as GRANT spells them, and on the tables that are mapped and those below them."""

    ours: Mapping[str, tuple[str, ...]]
    mapped: tuple[str, ...]
    child: tuple[str, ...]


_ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")
_ANYBODY = {
    "schema crossfeed": ("USAGE",),
    "crossfeed.alembic_version": ("SELECT",),
    "crossfeed.captured": ("SELECT",),
    "crossfeed.dead_letter": _ALL,
    "crossfeed.outbox": ("SELECT", "INSERT"),
    "sequence crossfeed.outbox_seq": ("USAGE",),
    "crossfeed.phase": ("SELECT",),
    "crossfeed.phase_history": ("SELECT",),
    "crossfeed.sample": _ALL,
    "crossfeed.switch": ("SELECT",),
    "crossfeed.tombstone": ("SELECT", "INSERT", "UPDATE"),
    # What the status page shows, whoever serves it.
    **dict.fromkeys(
        (
            "crossfeed.canary",
            "crossfeed.feed_processor",
            "crossfeed.feed_range",
            "crossfeed.inbox_parked",
            "crossfeed.mirror_parked",
            "crossfeed.outbox_partition",
            "crossfeed.parity",
            "crossfeed.parked",
            "crossfeed.relay",
            "crossfeed.slot",
            "crossfeed.trigger_failure",
            "crossfeed.trigger_progress",
            "crossfeed.writer",
        ),
        ("SELECT",),
    ),
}


class Process(Enum):
    """A process with a role of its own; a test runs each under a role that has its rights and no others."""

    RELAY = _Rights(
        {
            **_ANYBODY,
            "crossfeed.canary": _ALL,
            "crossfeed.lineage": ("SELECT",),
            "crossfeed.outbox_partition": ("SELECT",),
            "crossfeed.parked": _ALL,
            "crossfeed.relay": _ALL,
            "crossfeed.slot": ("SELECT", "UPDATE"),
        },
        mapped=("SELECT", "UPDATE"),  # rows that stand behind their own tombstone are lifted above it
        child=("SELECT",),
    )
    MIRROR = _Rights(
        {
            **_ANYBODY,
            "crossfeed.canary": _ALL,
            "crossfeed.feed_processor": _ALL,
            "crossfeed.feed_range": _ALL,
            "sequence crossfeed.feed_token": ("USAGE",),
            "crossfeed.consumer": ("SELECT", "INSERT"),
            "crossfeed.event_taken": _ALL,
            "crossfeed.inbox": _ALL,
            "crossfeed.inbox_mark": ("SELECT", "INSERT", "UPDATE"),
            "crossfeed.inbox_parked": _ALL,
            "sequence crossfeed.inbox_place": ("USAGE",),
            "crossfeed.mirror_parked": _ALL,
            "crossfeed.parked": ("SELECT",),
            "crossfeed.reconcile": ("SELECT", "UPDATE"),
            "crossfeed.reconcile_doubt": (*_ALL, "TRUNCATE"),
            "crossfeed.reconcile_range": (*_ALL, "TRUNCATE"),
            "crossfeed.reconcile_seen": (*_ALL, "TRUNCATE"),
            "crossfeed.watermark_seen": ("SELECT", "INSERT", "DELETE"),
        },
        mapped=_ALL,
        child=_ALL,
    )
    FUNCTIONS = _Rights(
        {
            **MIRROR.ours,
            "crossfeed.parity": ("SELECT", "INSERT", "UPDATE"),
            "crossfeed.parked": ("SELECT", "INSERT", "UPDATE"),  # letters to Cosmos DB are replayed from here, too
            "crossfeed.slot": ("SELECT", "UPDATE"),
            "crossfeed.tombstone": _ALL,
            "crossfeed.trigger_failure": _ALL,
            "crossfeed.trigger_progress": ("SELECT", "INSERT", "UPDATE"),
            "crossfeed.writer": ("SELECT",),
        },
        mapped=_ALL,
        child=_ALL,
    )
    APPLICATION = _Rights(
        {
            "schema crossfeed": ("USAGE",),
            "crossfeed.alembic_version": ("SELECT",),
            "crossfeed.captured": ("SELECT",),
            "crossfeed.phase": ("SELECT",),
            # What the switch left behind in Cosmos DB becomes a row with its events, or a dead letter, when it is read.
            "crossfeed.dead_letter": _ALL,
            "crossfeed.event_taken": _ALL,
            "crossfeed.mirror_parked": ("SELECT", "DELETE"),
            "crossfeed.outbox": ("SELECT", "INSERT"),
            "sequence crossfeed.outbox_seq": ("USAGE",),
            "crossfeed.tombstone": ("SELECT", "INSERT", "UPDATE"),
        },
        mapped=_ALL,
        child=_ALL,
    )


_LACKING = """
    SELECT current_user::text, object, privilege FROM unnest(%(objects)s::text[], %(privileges)s::text[])
        AS wanted(object, privilege)
    WHERE NOT CASE
        WHEN strpos(object, 'schema ') = 1 THEN has_schema_privilege(to_regnamespace(substr(object, 8)), privilege)
        WHEN strpos(object, 'sequence ') = 1 THEN has_sequence_privilege(substr(object, 10), privilege)
        ELSE has_table_privilege(object, privilege) END
"""

# A step locks the tables and re-creates triggers: that takes their owner.
_NOT_MINE = """
    SELECT DISTINCT t.oid::regclass::text FROM crossfeed.captured c
    JOIN pg_class t ON t.oid = ANY (c.children || c.relation || 'crossfeed.outbox'::regclass)
    WHERE NOT pg_has_role(t.relowner, 'USAGE') ORDER BY 1
"""


def rights_of(process: Process, mappings: Iterable[EntityMapping[Any]]) -> list[tuple[str, str]]:
    """Return (object, privilege) as GRANT spells them: everything that a process needs with these mappings."""
    needs = process.value
    rights = [(name, privilege) for name, privileges in needs.ours.items() for privilege in privileges]
    for mapping in mappings:
        tables = (mapping.table, *(child.table for child in mapping.children))
        rights += {(f"schema {quoted(table.schema)}", "USAGE"): None for table in tables if table.schema}
        rights += [(table_name(mapping.table), privilege) for privilege in needs.mapped]
        rights += [(table_name(child.table), privilege) for child in mapping.children for privilege in needs.child]
    return rights


async def check_rights(connection: AsyncConnection, process: Process, mappings: Iterable[EntityMapping[Any]]) -> None:
    """Compare the rights of the connection's role with what a process needs.

    Raises:
        ConfigurationError: some are missing; the message is made of the statements that grant them.

    """
    rights = rights_of(process, mappings)
    lacking: dict[str, list[str]] = {}
    role = ""
    # Schemas first: without them Postgres refuses to say anything about what is in them.
    for schemas in (True, False):
        asked = [right for right in rights if right[0].startswith("schema ") == schemas]
        objects, privileges = zip(*asked, strict=True)
        found = await connection.exec_driver_sql(_LACKING, {"objects": list(objects), "privileges": list(privileges)})
        for role, name, privilege in map(tuple, found):  # noqa: B007 - it is the same in every row
            lacking.setdefault(name, []).append(privilege)
        if lacking:
            break
    if lacking:
        grants = "; ".join(f'GRANT {", ".join(of)} ON {name} TO "{role}"' for name, of in lacking.items())
        msg = f"the role {role} of CROSSFEED_POSTGRES_DSN lacks rights; run: {grants}"
        raise ConfigurationError(msg)


async def tables_not_owned(connection: AsyncConnection) -> list[str]:
    """Return the captured tables, and the log, that the connection's role does not own: a step would be refused.

    Raises:
        sqlalchemy.exc.DBAPIError: Postgres did not answer.

    """
    return list((await connection.exec_driver_sql(_NOT_MINE)).scalars())
