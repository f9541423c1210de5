"""Spells the trigger functions that are generated for each mapped table, so that their SQL is planned once.

A key change in one statement may hand a key from row to row (a -> b while b -> c). The row stamp sees only its own
past; a row that took over a key is therefore lifted above what that key's former row had reached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.postgres.names import (
    KEY_DIGEST,
    ROOT_WRITTEN,
    is_tombstone,
    literal,
    partition_key_of,
    quoted,
    root_text,
    same_identity,
    table_name,
)

if TYPE_CHECKING:
    from core.children import ChildTable
    from core.mapping import EntityMapping

_OUTBOX = "crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted, traceparent)"
_TRACE = "nullif(current_setting('crossfeed.traceparent', true), '')"
_THIS_TABLE = "crossfeed_this_table"
_DEFINER = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
_INVOKER = "SECURITY INVOKER"
# Not a WHEN clause of the trigger: Postgres reads each of those from its text again in every statement.
_UNLESS_MIRRORING = "IF current_setting('crossfeed.mirroring', true) = 'on' THEN RETURN NULL; END IF;"


def functions_of(mapping: EntityMapping[Any], routine: str) -> list[str]:
    """Return the statements that create or replace the trigger functions of a mapping's tables."""
    return [
        _stamp(mapping, routine),
        _captured_insert(mapping, routine),
        _captured_update(mapping, routine),
        _lift(mapping, routine),
        _captured_delete(mapping, routine),
        *(
            statement
            for number, child in enumerate(mapping.children, 1)
            for statement in _child_functions(mapping, child, f"{routine}_{number}")
        ),
    ]


def _function(name: str, body: str, rights: str = _DEFINER) -> str:
    return (
        f"CREATE OR REPLACE FUNCTION crossfeed.{quoted(name)}() RETURNS trigger LANGUAGE plpgsql {rights}"
        f" AS $body$ {body} $body$"
    )


def _in_place(sql: str, table: str) -> str:
    """Run `sql` with the table's full name filled in: the writer's search_path may be another than the migration's."""
    return f"""
        DO $do$ BEGIN EXECUTE replace($sql${sql}$sql$, '{_THIS_TABLE}', (
            SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.oid = {literal(table)}::regclass)); END $do$
    """


def _stamp(mapping: EntityMapping[Any], routine: str) -> str:
    """Stamp a row with (epoch, version); a key that was used before goes on from its tombstone."""
    moved = " OR ".join(f"NEW.{quoted(name)} IS DISTINCT FROM OLD.{quoted(name)}" for name in mapping.identity_columns)
    taken = f"({partition_key_of(mapping, 'NEW')})"
    return _function(
        f"stamp_{routine}",
        f"""
        DECLARE
            buried record;
            reached bigint := 0;
        BEGIN
            IF TG_OP = 'UPDATE' THEN
                -- No other writer raises a version by more than one: others do not pay for the question.
                IF NEW.crossfeed_version > OLD.crossfeed_version + 1
                    AND current_setting('crossfeed.lifting', true) = {literal(routine)}
                THEN
                    RETURN NEW;
                END IF;
                IF NOT ({moved}) THEN
                    NEW.crossfeed_epoch := TG_ARGV[0]::bigint;
                    NEW.crossfeed_version := OLD.crossfeed_version + 1;
                    RETURN NEW;
                END IF;
                reached := OLD.crossfeed_version;
            END IF;
            -- What was taken from Cosmos belongs to the key: the new key's tombstone knows what was taken of it.
            SELECT d.version, d.etag, d.ts, d.lsn INTO buried
                FROM crossfeed.tombstone d WHERE {is_tombstone(mapping, "d", taken, "NEW.id")};
            IF FOUND OR NEW.crossfeed_etag IS NOT NULL OR NEW.crossfeed_ts IS NOT NULL
                OR NEW.crossfeed_lsn IS NOT NULL
            THEN
                NEW.crossfeed_etag := buried.etag;
                NEW.crossfeed_ts := buried.ts;
                NEW.crossfeed_lsn := buried.lsn;
                reached := greatest(reached, buried.version);
            END IF;
            NEW.crossfeed_epoch := TG_ARGV[0]::bigint;
            NEW.crossfeed_version := reached + 1;
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
    return _function(f"captured_insert_{routine}", f"BEGIN {_UNLESS_MIRRORING} {_upserts(mapping)}; RETURN NULL; END")


def _captured_update(mapping: EntityMapping[Any], routine: str) -> str:
    """Emit an upsert per new row, then a delete per key that no row has any more."""
    left = f"NOT EXISTS (SELECT FROM new_rows n WHERE {same_identity(mapping, 'n', 'o')})"
    return _function(
        f"captured_update_{routine}",
        f"""
        DECLARE
            written bigint;
        BEGIN
            {_UNLESS_MIRRORING}
            {_upserts(mapping)};
            GET DIAGNOSTICS written = ROW_COUNT;
            -- One row that kept its key is what most statements are about: it is told without a join.
            IF written = 0 OR written = 1 AND (
                SELECT {same_identity(mapping, "n", "o")} AND n.crossfeed_version > o.crossfeed_version
                FROM old_rows o CROSS JOIN new_rows n)
            THEN
                RETURN NULL;
            END IF;
            IF EXISTS (SELECT FROM old_rows o WHERE {left}) THEN
                {_bury(mapping, f"SELECT o.* FROM old_rows o WHERE {left}")};
            END IF;
            IF EXISTS (SELECT FROM old_rows o JOIN new_rows n ON {same_identity(mapping, "n", "o")}
                       WHERE n.crossfeed_version <= o.crossfeed_version) THEN
                PERFORM set_config('crossfeed.lifting', {literal(f"{routine} asked")}, true);
            END IF;
            RETURN NULL;
        END""",
    )


def _lift(mapping: EntityMapping[Any], routine: str) -> str:
    """Lift what `captured_update` found above the key's former row; an UPDATE like any other, only not stamped."""
    function = _function(
        f"lift_{routine}",
        f"""BEGIN
            IF current_setting('crossfeed.lifting', true) = {literal(f"{routine} asked")} THEN
                PERFORM set_config('crossfeed.lifting', {literal(routine)}, true);
                UPDATE {_THIS_TABLE} t SET crossfeed_version = o.crossfeed_version + 1
                    FROM old_rows o JOIN new_rows n ON {same_identity(mapping, "n", "o")}
                    WHERE {same_identity(mapping, "t", "n")} AND t.crossfeed_version <= o.crossfeed_version;
                PERFORM set_config('crossfeed.lifting', '', true);
            END IF;
            RETURN NULL;
        END""",
        _INVOKER,
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
            ON CONFLICT (entity, {KEY_DIGEST}) DO UPDATE SET epoch = excluded.epoch,
                version = greatest(t.version + 1, excluded.version), etag = excluded.etag, ts = excluded.ts,
                lsn = excluded.lsn, at = clock_timestamp()
            RETURNING t.entity, t.partition_key, t.id, t.epoch, t.version
        )
        {_message(mapping, gone, "changed.version", "changed.epoch", "true")}
    """


def _captured_delete(mapping: EntityMapping[Any], routine: str) -> str:
    return _function(
        f"captured_delete_{routine}",
        f"BEGIN {_UNLESS_MIRRORING} {_bury(mapping, 'SELECT o.* FROM old_rows o')}; RETURN NULL; END",
    )


def _child_functions(mapping: EntityMapping[Any], child: ChildTable, routine: str) -> list[str]:
    """Make a write to a child table a write to its root, the roots locked in key order.

    The writer's own UPDATE, with the writer's rights and search_path, for the triggers that users have on the root. A
    root that its repository has just written (`crossfeed.root_written`) is not written again. The lock lets the locks
    pass that the foreign key has taken for other writers of the same root: two of them would wait for each other.
    """
    columns = ", ".join(f"r.{quoted(name)}" for name in mapping.identity_columns)
    parents = ", ".join(quoted(name) for name in child.parent)

    def touch(event: str, rows: str) -> str:
        changed = f"({columns}) IN ({rows})"
        function = _function(
            f"child_{event}_{routine}",
            f"""BEGIN
                PERFORM FROM {_THIS_TABLE} r WHERE {changed}
                    AND {root_text(mapping, "r")} IS DISTINCT FROM current_setting('{ROOT_WRITTEN}', true)
                    ORDER BY {columns} FOR NO KEY UPDATE;
                IF FOUND THEN
                    UPDATE {_THIS_TABLE} r SET crossfeed_version = r.crossfeed_version WHERE {changed}
                        AND {root_text(mapping, "r")} IS DISTINCT FROM current_setting('{ROOT_WRITTEN}', true);
                END IF;
                RETURN NULL;
            END""",
            _INVOKER,
        )
        return _in_place(function, table_name(mapping.table))

    old, new = f"SELECT {parents} FROM old_rows", f"SELECT {parents} FROM new_rows"
    return [touch("insert", new), touch("update", f"{old} UNION {new}"), touch("delete", old)]
