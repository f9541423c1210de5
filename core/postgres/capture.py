"""Installs capture on a mapped table: the database itself writes the outbox, whoever writes the row.

    def upgrade() -> None:
        capture.install(op, CUSTOMERS)

Statement-level AFTER triggers with transition tables insert one small reference per changed row into
`crossfeed.outbox`, in the same transaction; a BEFORE ROW trigger stamps (epoch, version); deletes leave tombstones.
What a TRUNCATE would lose is refused. The functions are generated per table, so that their SQL is planned once.

A key change in one statement may hand a key from row to row (a -> b while b -> c). The row stamp sees only its own
past; `captured_update` therefore lifts a row that took over a key above what that key's former row had reached.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from core.errors import MappingError
from core.postgres.names import literal, partition_key_of, quoted, same_identity, table_name
from core.postgres.statements import Executes, execute
from core.projection import EXTRA_COLUMN, SPELLING_COLUMN

if TYPE_CHECKING:
    from core.children import ChildTable
    from core.mapping import EntityMapping

_MAX_ROUTINE = 40
_OUTBOX = "crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted, traceparent)"
_TRACE = "nullif(current_setting('crossfeed.traceparent', true), '')"
_ARM = "SELECT crossfeed.arm({entity}, epoch, phase >= 2 AND state = 'steady') FROM crossfeed.phase"
_THIS_TABLE, _CHILD_OID = "crossfeed_this_table", "crossfeed_child_oid"
_DEFINER = "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp"


def install(target: Executes, mapping: EntityMapping[Any]) -> None:
    """Add Crossfeed's columns to the mapping's table, and the triggers in the states that the phase row asks for.

    Installing again replaces functions and triggers. Rows that are there already count as version 1.

    Args:
        target: `alembic.op` inside a migration, or a SQLAlchemy Connection; the caller commits.
        mapping: the mapping whose table (and child tables) exist already.

    Raises:
        MappingError: the id is not text.
        sqlalchemy.exc.DBAPIError: the schema `crossfeed` or the table is missing, a right is missing, the table is
            partitioned, foreign or a view, or a foreign key between two mapped tables cascades.

    """
    if not isinstance(mapping.table.columns["id"].type, sa.String):
        msg = f"mapping {mapping.name}: {mapping.table.fullname}.id must be text; ids are never reshaped"
        raise MappingError(msg)
    table = table_name(mapping.table)
    execute(target, _refuse_odd_relations([table, *(table_name(child.table) for child in mapping.children)]))
    execute(target, _columns(table, mapping))
    for child in mapping.children:
        execute(target, _residue_columns(table_name(child.table)))
    routine = _routine(mapping)
    for statement in (
        _stamp(mapping, routine),
        _captured_insert(mapping, routine),
        _captured_update(mapping, routine),
        _captured_delete(mapping, routine),
        *(statement for child in mapping.children for statement in _child_functions(mapping, child)),
        _register(mapping, routine),
        _refuse_cascades(),
        _ARM.format(entity=literal(mapping.name)),
    ):
        execute(target, statement)


def _routine(mapping: EntityMapping[Any]) -> str:
    name = re.sub(r"\W+", "_", mapping.name).lower()
    if len(name) > _MAX_ROUTINE or name != mapping.name.lower():
        name = f"{name[:_MAX_ROUTINE]}_{hashlib.blake2b(mapping.name.encode(), digest_size=4).hexdigest()}"
    return name


def _function(name: str, body: str) -> str:
    return f"CREATE OR REPLACE FUNCTION crossfeed.{quoted(name)}() RETURNS trigger {_DEFINER} AS $body$ {body} $body$"


def _in_place(sql: str, table: str, child: str | None = None) -> str:
    """Run `sql` with the table's full name (functions search no schema of the user's) and the child's oid filled in."""
    return f"""
        DO $do$ BEGIN EXECUTE replace(replace($sql${sql}$sql$, '{_THIS_TABLE}', (
            SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.oid = {literal(table)}::regclass)), '{_CHILD_OID}', {literal(child or table)}::regclass::oid::text);
        END $do$
    """


def _refuse_odd_relations(tables: list[str]) -> str:
    names = ", ".join(literal(table) for table in tables)
    return f"""
        DO $do$
        DECLARE odd record;
        BEGIN
            FOR odd IN SELECT name, relkind, relispartition
                FROM unnest(ARRAY[{names}]) AS name JOIN pg_class ON pg_class.oid = name::regclass
                WHERE relkind <> 'r' OR relispartition
            LOOP
                RAISE EXCEPTION 'crossfeed: % is not an ordinary table (relkind %, partition %)',
                    odd.name, odd.relkind, odd.relispartition
                    USING HINT = 'Statement triggers of a partitioned table do not see writes aimed at a partition.';
            END LOOP;
        END $do$
    """


def _columns(table: str, mapping: EntityMapping[Any]) -> str:
    body = "" if mapping.projection.body != EXTRA_COLUMN else f"ADD COLUMN IF NOT EXISTS {EXTRA_COLUMN} jsonb,"
    # The defaults stand for the rows that are there already: a constant default rewrites nothing.
    return f"""
        ALTER TABLE {table} {body}
            ADD COLUMN IF NOT EXISTS crossfeed_epoch bigint NOT NULL DEFAULT 1,
            ADD COLUMN IF NOT EXISTS crossfeed_version bigint NOT NULL DEFAULT 1,
            ADD COLUMN IF NOT EXISTS crossfeed_etag text,
            ADD COLUMN IF NOT EXISTS crossfeed_ts bigint,
            ADD COLUMN IF NOT EXISTS crossfeed_lsn bigint,
            ADD COLUMN IF NOT EXISTS {SPELLING_COLUMN} jsonb
    """


def _residue_columns(table: str) -> str:
    return f"""
        ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {EXTRA_COLUMN} jsonb,
            ADD COLUMN IF NOT EXISTS {SPELLING_COLUMN} jsonb
    """


def _register(mapping: EntityMapping[Any], routine: str) -> str:
    identity = ", ".join(literal(name) for name in mapping.identity_columns)
    children = ", ".join(f"{literal(table_name(child.table))}::regclass" for child in mapping.children)
    return f"""
        INSERT INTO crossfeed.captured (entity, relation, routine, identity, children)
        VALUES ({literal(mapping.name)}, {literal(table_name(mapping.table))}::regclass, {literal(routine)},
            ARRAY[{identity}], ARRAY[{children}]::regclass[])
        ON CONFLICT (entity) DO UPDATE SET relation = excluded.relation, routine = excluded.routine,
            identity = excluded.identity, children = excluded.children
    """


def _refuse_cascades() -> str:
    return """
        DO $do$
        DECLARE cascading record;
        BEGIN
            FOR cascading IN SELECT conname, conrelid::regclass AS here, confrelid::regclass AS there FROM pg_constraint
                WHERE contype = 'f' AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))
                    AND conrelid IN (SELECT relation FROM crossfeed.captured)
                    AND confrelid IN (SELECT relation FROM crossfeed.captured) AND conrelid <> confrelid
            LOOP
                RAISE EXCEPTION 'crossfeed: foreign key % cascades from % to %, which are both mapped',
                    cascading.conname, cascading.there, cascading.here
                    USING HINT = 'One aggregate must not write another: use NO ACTION or RESTRICT.';
            END LOOP;
        END $do$
    """


def _stamp(mapping: EntityMapping[Any], routine: str) -> str:
    """Stamp a row with (epoch, version); a key that was used before goes on from its tombstone."""
    moved = " OR ".join(f"NEW.{quoted(name)} IS DISTINCT FROM OLD.{quoted(name)}" for name in mapping.identity_columns)
    return _function(
        f"stamp_{routine}",
        f"""
        DECLARE
            buried bigint;
            reached bigint := 0;
            takes_key boolean := true;
        BEGIN
            IF TG_OP = 'UPDATE' THEN
                reached := OLD.crossfeed_version;
                takes_key := {moved};
            END IF;
            IF takes_key THEN
                -- What was taken from Cosmos belongs to the key: the new key's tombstone knows what was taken of it.
                SELECT version, etag, ts, lsn INTO buried, NEW.crossfeed_etag, NEW.crossfeed_ts, NEW.crossfeed_lsn
                FROM crossfeed.tombstone WHERE entity = {literal(mapping.name)}
                    AND partition_key = {partition_key_of(mapping, "NEW")} AND id = NEW.id;
            END IF;
            NEW.crossfeed_epoch := TG_ARGV[0]::bigint;
            NEW.crossfeed_version := greatest(reached, coalesce(buried, 0)) + 1;
            RETURN NEW;
        END
        """,
    )


def _message(mapping: EntityMapping[Any], rows: str, version: str, epoch: str, deleted: str) -> str:
    return f"""
        INSERT INTO {_OUTBOX}
        SELECT crossfeed.slot_of({literal(mapping.name)}, changed.partition_key, changed.id), {literal(mapping.name)},
            changed.partition_key, changed.id, {epoch}, {version}, {deleted}, {_TRACE}
        FROM {rows} AS changed
    """


def _new_rows(mapping: EntityMapping[Any]) -> str:
    return (
        f"(SELECT {partition_key_of(mapping, 'n')} AS partition_key, n.id, n.crossfeed_epoch, n.crossfeed_version"
        " FROM new_rows n)"
    )


def _upserts(mapping: EntityMapping[Any]) -> str:
    return _message(mapping, _new_rows(mapping), "changed.crossfeed_version", "changed.crossfeed_epoch", "false")


def _captured_insert(mapping: EntityMapping[Any], routine: str) -> str:
    return _function(f"captured_insert_{routine}", f"BEGIN {_upserts(mapping)}; RETURN NULL; END")


def _captured_update(mapping: EntityMapping[Any], routine: str) -> str:
    """Emit an upsert per new row, then a delete per key that no row has any more."""
    left = f"NOT EXISTS (SELECT FROM new_rows n WHERE {same_identity(mapping, 'n', 'o')})"
    function = _function(
        f"captured_update_{routine}",
        f"""BEGIN
            {_upserts(mapping)};
            IF EXISTS (SELECT FROM old_rows o WHERE {left}) THEN
                {_bury(mapping, f"SELECT o.* FROM old_rows o WHERE {left}")};
            END IF;
            IF EXISTS (SELECT FROM old_rows o JOIN new_rows n ON {same_identity(mapping, "n", "o")}
                       WHERE n.crossfeed_version <= o.crossfeed_version) THEN
                PERFORM set_config('crossfeed.mirroring', 'on', true);
                UPDATE {_THIS_TABLE} t SET crossfeed_version = o.crossfeed_version + 1
                    FROM old_rows o JOIN new_rows n ON {same_identity(mapping, "n", "o")}
                    WHERE {same_identity(mapping, "t", "n")} AND n.crossfeed_version <= o.crossfeed_version;
                PERFORM set_config('crossfeed.mirroring', 'off', true);
            END IF;
            RETURN NULL;
        END""",
    )
    return _in_place(function, table_name(mapping.table))


def _bury(mapping: EntityMapping[Any], rows: str) -> str:
    """Write tombstones for `rows`, newer than the row and than any tombstone before, and their messages."""
    gone = """(
        SELECT crossfeed_dead.entity, crossfeed_dead.partition_key, crossfeed_dead.id, crossfeed_dead.epoch,
            crossfeed_dead.version FROM crossfeed_dead)"""
    return f"""
        WITH crossfeed_dead AS (
            INSERT INTO crossfeed.tombstone AS t (entity, partition_key, id, epoch, version, etag, ts, lsn)
            SELECT {literal(mapping.name)}, {partition_key_of(mapping, "gone")}, gone.id, TG_ARGV[0]::bigint,
                gone.crossfeed_version + 1, gone.crossfeed_etag, gone.crossfeed_ts, gone.crossfeed_lsn
            FROM ({rows}) AS gone ORDER BY 2, 3
            ON CONFLICT (entity, partition_key, id) DO UPDATE SET epoch = excluded.epoch,
                version = greatest(t.version + 1, excluded.version), etag = excluded.etag, ts = excluded.ts,
                lsn = excluded.lsn, at = clock_timestamp()
            RETURNING t.entity, t.partition_key, t.id, t.epoch, t.version
        )
        {_message(mapping, gone, "changed.version", "changed.epoch", "true")}
    """


def _captured_delete(mapping: EntityMapping[Any], routine: str) -> str:
    return _function(
        f"captured_delete_{routine}", f"BEGIN {_bury(mapping, 'SELECT o.* FROM old_rows o')}; RETURN NULL; END"
    )


def _child_functions(mapping: EntityMapping[Any], child: ChildTable) -> list[str]:
    """Make a write to a child table a write to its root, the roots locked in key order."""
    columns = ", ".join(f"r.{quoted(name)}" for name in mapping.identity_columns)
    parents = ", ".join(quoted(name) for name in child.parent)

    def touch(event: str, rows: str) -> str:
        changed = f"({columns}) IN ({rows})"
        function = _function(
            f"child_{event}_{_CHILD_OID}",
            f"""BEGIN
                PERFORM FROM {_THIS_TABLE} r WHERE {changed} ORDER BY {columns} FOR UPDATE;
                UPDATE {_THIS_TABLE} r SET crossfeed_version = r.crossfeed_version WHERE {changed};
                RETURN NULL;
            END""",
        )
        return _in_place(function, table_name(mapping.table), table_name(child.table))

    old, new = f"SELECT {parents} FROM old_rows", f"SELECT {parents} FROM new_rows"
    return [touch("insert", new), touch("update", f"{old} UNION {new}"), touch("delete", old)]
