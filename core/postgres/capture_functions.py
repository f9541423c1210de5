"""Spells the trigger functions that are generated for each mapped table, so that their SQL is planned once.

Most statements write one row, and an upsert fires the triggers of INSERT and of UPDATE. What costs there is not the
rows but every query and expression that is made ready anew in each transaction: so few of them on the way of one row.

A key change in one statement may hand a key from row to row (a -> b while b -> c). The row stamp sees only its own
past; a row that took over a key is therefore lifted above what that key's former row had reached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.postgres.names import (
    KEY_DIGEST,
    ROOT_WRITTEN,
    columns_of,
    dollar_quoted,
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
_THIS_TABLE = "%crossfeed_this_table%"  # no name holds a percent sign
_DEFINER = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
_INVOKER = "SECURITY INVOKER"
# Asked in the functions, not in a WHEN clause: Postgres reads each of those from its text again in every statement.
_MIRRORING = "current_setting('crossfeed.mirroring', true) = 'on'"
_UNLESS_MIRRORING = f"IF {_MIRRORING} THEN RETURN NULL; END IF;"


def functions_of(mapping: EntityMapping[Any], routine: str) -> list[str]:
    """Return the statements that create or replace the trigger functions of a mapping's tables."""
    return [
        _stamp_insert(mapping, routine),
        _stamp_update(mapping, routine),
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
        f" AS {dollar_quoted(body)}"
    )


def _in_place(sql: str, table: str) -> str:
    """Run `sql` with the table's full name filled in: the writer's search_path may be another than the migration's."""
    block = f"""
        BEGIN EXECUTE replace({dollar_quoted(sql)}, '{_THIS_TABLE}', (
            SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.oid = {literal(table)}::regclass)); END
    """
    return f"DO {dollar_quoted(block)}"


def _stamp_insert(mapping: EntityMapping[Any], routine: str) -> str:
    """Stamp a new row with (epoch, version); a key that was used before goes on from its tombstone."""
    # The index alone answers for nearly all keys; who finds something there compares the key in full.
    probe = (
        f"EXISTS (SELECT FROM crossfeed.tombstone d WHERE d.entity = {literal(mapping.name)}"
        f" AND md5(d.partition_key || d.id)::uuid = md5({partition_key_of(mapping, 'NEW')} || NEW.id)::uuid)"
    )
    return _function(
        f"stamp_insert_{routine}",
        f"""
        DECLARE
            reached bigint;
        BEGIN
            IF {_MIRRORING} THEN RETURN NEW; END IF;
            IF {probe} OR NEW.crossfeed_etag IS NOT NULL OR NEW.crossfeed_ts IS NOT NULL
                OR NEW.crossfeed_lsn IS NOT NULL
            THEN
                {_take_over(mapping)};
            END IF;
            NEW.crossfeed_epoch := TG_ARGV[0]::bigint;
            NEW.crossfeed_version := coalesce(reached, 0) + 1;
            RETURN NEW;
        END
        """,
    )


def _stamp_update(mapping: EntityMapping[Any], routine: str) -> str:
    """Stamp a row that was there; one that takes another key goes on from the tombstone of that key, too."""
    moved = " OR ".join(f"NEW.{quoted(name)} IS DISTINCT FROM OLD.{quoted(name)}" for name in mapping.identity_columns)
    # No other writer raises a version by more than one: others do not pay for the question who lifts.
    return _function(
        f"stamp_update_{routine}",
        f"""
        DECLARE
            reached bigint;
        BEGIN
            IF {_MIRRORING} OR NEW.crossfeed_version > OLD.crossfeed_version + 1
                AND current_setting('crossfeed.lifting', true) = {literal(routine)}
            THEN
                RETURN NEW;
            END IF;
            IF {moved} THEN
                {_take_over(mapping)};
            END IF;
            NEW.crossfeed_epoch := TG_ARGV[0]::bigint;
            NEW.crossfeed_version := greatest(reached, OLD.crossfeed_version) + 1;
            RETURN NEW;
        END
        """,
    )


def _take_over(mapping: EntityMapping[Any]) -> str:
    """Give NEW what its key's tombstone knows was taken from Cosmos; `reached` becomes the tombstone's version.

    What was taken belongs to the key: without a tombstone nothing was, whatever the writer or the former key says.
    """
    return f"""
        SELECT d.version, d.etag, d.ts, d.lsn
            INTO reached, NEW.crossfeed_etag, NEW.crossfeed_ts, NEW.crossfeed_lsn
            FROM crossfeed.tombstone d
            WHERE {is_tombstone(mapping, "d", f"({partition_key_of(mapping, 'NEW')})", "NEW.id")}
    """


def _message(mapping: EntityMapping[Any], rows: str, version: str, epoch: str, deleted: str) -> str:
    return f"""
        INSERT INTO {_OUTBOX}
        SELECT crossfeed.slot_of({literal(mapping.name)}, changed.partition_key, changed.id), {literal(mapping.name)},
            changed.partition_key, changed.id, {epoch}, {version}, {deleted}, {_TRACE}
        FROM {rows} AS changed
    """


def _upserts(mapping: EntityMapping[Any], which: str = "") -> str:
    """Emit the new rows, or those of them (`n`) that `which`, the end of a FROM clause, leaves."""
    rows = (
        f"(SELECT {partition_key_of(mapping, 'n')} AS partition_key, n.id, n.crossfeed_epoch, n.crossfeed_version"
        f" FROM new_rows n{which})"
    )
    return _message(mapping, rows, "changed.crossfeed_version", "changed.crossfeed_epoch", "false")


def _captured_insert(mapping: EntityMapping[Any], routine: str) -> str:
    return _function(
        f"captured_insert_{routine}",
        f"""BEGIN
            -- An upsert of a row that was there inserts none.
            IF {_MIRRORING} OR NOT EXISTS (SELECT FROM new_rows) THEN RETURN NULL; END IF;
            {_upserts(mapping)};
            RETURN NULL;
        END""",
    )


def _captured_update(mapping: EntityMapping[Any], routine: str) -> str:
    """Emit an upsert per new row, then a delete per key that no row has any more.

    One row that kept its key is what most statements are about: it is told apart by the query that emits it.
    """
    kept = f"{same_identity(mapping, 'n', 'o')} AND n.crossfeed_version > o.crossfeed_version"
    alone = "NOT EXISTS (SELECT FROM new_rows OFFSET 1)"
    left = f"NOT EXISTS (SELECT FROM new_rows n WHERE {same_identity(mapping, 'n', 'o')})"
    return _function(
        f"captured_update_{routine}",
        f"""
        DECLARE
            any_left boolean;
            any_behind boolean;
        BEGIN
            {_UNLESS_MIRRORING}
            {_upserts(mapping, f", old_rows o WHERE {kept} AND {alone}")};
            IF FOUND THEN
                RETURN NULL;
            END IF;
            {_upserts(mapping)};
            IF NOT FOUND THEN
                RETURN NULL;
            END IF;
            {_compare_keys(mapping)};
            IF any_left THEN
                {_bury(mapping, f"SELECT o.* FROM old_rows o WHERE {left}")};
            END IF;
            IF any_behind THEN
                PERFORM set_config('crossfeed.lifting', {literal(f"{routine} asked")}, true);
            END IF;
            RETURN NULL;
        END""",
    )


def _compare_keys(mapping: EntityMapping[Any]) -> str:
    """Tell whether a key has no row any more, and whether one has a row that is not newer than its former one.

    Grouped, not joined: a session keeps the plan of its first, perhaps small statement, and a nested loop over a
    hundred thousand rows of each kind would not end.
    """
    keys = columns_of(mapping.identity_columns)
    return f"""
        SELECT bool_or(k.written IS NULL), bool_or(k.written <= k.former) INTO any_left, any_behind FROM (
            SELECT min(v.written) AS written, max(v.former) AS former FROM (
                SELECT {keys}, crossfeed_version AS written, NULL::bigint AS former FROM new_rows
                UNION ALL SELECT {keys}, NULL, crossfeed_version FROM old_rows) AS v
            GROUP BY {keys}) AS k
    """


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
                {_UNLESS_MIRRORING}
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
