"""Installs capture on a mapped table: the database itself writes the outbox, whoever writes the row.

    def upgrade() -> None:
        capture.install(op, CUSTOMERS)

Statement-level AFTER triggers with transition tables insert one small reference per changed row into
`crossfeed.outbox`, in the same transaction; a BEFORE ROW trigger stamps (epoch, version); deletes leave tombstones.
What a TRUNCATE would lose is refused. The functions are generated per table, so that their SQL is planned once.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from core.errors import MappingError
from core.postgres.capture_functions import functions_of
from core.postgres.names import dollar_quoted, literal, name_problems, table_name
from core.postgres.statements import Executes, execute
from core.projection import EXTRA_COLUMN, SPELLING_COLUMN

if TYPE_CHECKING:
    from core.mapping import EntityMapping

_MAX_ROUTINE = 32
# A drain that does not see the mapping yet must not come between reading the phase and arming its triggers.
_HOLD_PHASE = "SELECT FROM crossfeed.phase FOR SHARE"
_ARM = "SELECT crossfeed.arm({entity}, epoch, phase >= 2 AND state = 'steady') FROM crossfeed.phase"


def install(target: Executes, mapping: EntityMapping[Any]) -> None:
    """Add Crossfeed's columns to the mapping's table, and the triggers in the states that the phase row asks for.

    Installing again replaces functions and triggers. Rows that are there already count as version 1.

    Who writes to a child table needs the right to UPDATE its root as well: the write to the child is one to the root.

    Args:
        target: `alembic.op` inside a migration, or a SQLAlchemy Connection; the caller commits.
        mapping: the mapping whose table (and child tables) exist already.

    Raises:
        MappingError: the id is not text, or a name cannot be used.
        sqlalchemy.exc.DBAPIError: the schema `crossfeed` or the table is missing, a right is missing, the table is
            partitioned, foreign, a view or named like another type, a child table has no foreign key to its root, a
            foreign key between two aggregates cascades, or a key column takes two texts for equal.

    """
    if not isinstance(mapping.table.columns["id"].type, sa.String):
        msg = f"mapping {mapping.name}: {mapping.table.fullname}.id must be text; ids are never reshaped"
        raise MappingError(msg)
    if problems := name_problems(mapping):
        msg = f"mapping {mapping.name}: {'; '.join(problems)}"
        raise MappingError(msg)
    table = table_name(mapping.table)
    execute(target, _HOLD_PHASE)
    remove(target, mapping.name)
    execute(target, _refuse_odd_relations([table, *(table_name(child.table) for child in mapping.children)]))
    execute(target, _columns(table, mapping))
    for child in mapping.children:
        execute(target, _residue_columns(table_name(child.table)))
    routine = _routine(mapping)
    for statement in (
        *functions_of(mapping, routine),
        _register(mapping, routine),
        _refuse_misfits(mapping.name),
        _ARM.format(entity=literal(mapping.name)),
    ):
        execute(target, statement)


def remove(target: Executes, name: str) -> None:
    """Stop capturing a mapping's writes: for a migration that drops its table, or has dropped it.

    Triggers and functions go; Crossfeed's columns, tombstones and messages stay.

    Args:
        target: `alembic.op` inside a migration, or a SQLAlchemy Connection; the caller commits.
        name: the mapping's name; nothing happens if it was never installed.

    """
    execute(target, _remove(name))


def _do(block: str) -> str:
    return f"DO {dollar_quoted(block)}"


def _routine(mapping: EntityMapping[Any]) -> str:
    name = re.sub(r"\W+", "_", mapping.name).lower()
    if len(name) > _MAX_ROUTINE or name != mapping.name.lower():
        name = f"{name[:_MAX_ROUTINE]}_{hashlib.blake2b(mapping.name.encode(), digest_size=4).hexdigest()}"
    return name


def _refuse_odd_relations(tables: list[str]) -> str:
    names = ", ".join(literal(table) for table in tables)
    return _do(f"""
        DECLARE odd record;
        BEGIN
            FOR odd IN SELECT name, relkind, relispartition
                FROM unnest(ARRAY[{names}]) AS name JOIN pg_class ON pg_class.oid = name::regclass
                WHERE relkind <> 'r' OR relispartition OR to_regtype(name)::oid IS DISTINCT FROM reltype
            LOOP
                IF to_regtype(odd.name)::oid IS DISTINCT FROM (
                    SELECT reltype FROM pg_class WHERE pg_class.oid = odd.name::regclass)
                THEN
                    RAISE EXCEPTION 'crossfeed: table % has the name of another type', odd.name
                        USING HINT = 'Give it another name, or name its schema in the mapping.';
                END IF;
                RAISE EXCEPTION 'crossfeed: % is not an ordinary table (relkind %, partition %)',
                    odd.name, odd.relkind, odd.relispartition
                    USING HINT = 'Statement triggers of a partitioned table do not see writes aimed at a partition.';
            END LOOP;
        END
    """)


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
    parents = ", ".join(f"ARRAY[{', '.join(map(literal, child.parent))}]" for child in mapping.children)
    return f"""
        INSERT INTO crossfeed.captured (entity, relation, routine, identity, children, parents)
        VALUES ({literal(mapping.name)}, {literal(table_name(mapping.table))}::regclass, {literal(routine)},
            ARRAY[{identity}], ARRAY[{children}]::regclass[], ARRAY[{parents}]::text[])
    """


def _refuse_misfits(name: str) -> str:
    return _do(f"""
        DECLARE problems text := (SELECT string_agg(problem, '; ') FROM crossfeed.misfits({literal(name)}) AS problem);
        BEGIN
            IF problems IS NOT NULL THEN
                RAISE EXCEPTION 'crossfeed: %', problems;
            END IF;
        END
    """)


def _remove(name: str) -> str:
    return _do(f"""
        DECLARE
            mapped crossfeed.captured;
            doomed record;
        BEGIN
            DELETE FROM crossfeed.captured WHERE entity = {literal(name)} RETURNING * INTO mapped;
            IF NOT FOUND THEN
                RETURN;
            END IF;
            FOR doomed IN SELECT tgname, tgrelid::regclass AS relation FROM pg_trigger
                WHERE tgrelid = ANY (mapped.children || mapped.relation) AND starts_with(tgname, 'crossfeed_')
            LOOP
                EXECUTE format('DROP TRIGGER %I ON %s', doomed.tgname, doomed.relation);
            END LOOP;
            FOR doomed IN SELECT unnest(ARRAY['stamp_insert_', 'stamp_update_', 'captured_insert_',
                    'captured_update_', 'captured_delete_', 'lift_']) || mapped.routine AS routine
                UNION ALL SELECT kind || mapped.routine || '_' || n
                FROM unnest(ARRAY['child_insert_', 'child_update_', 'child_delete_']) AS kind,
                    generate_subscripts(mapped.children, 1) AS n
            LOOP
                EXECUTE format('DROP FUNCTION IF EXISTS crossfeed.%I()', doomed.routine);
            END LOOP;
        END
    """)
