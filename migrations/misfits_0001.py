"""The function of revision 0001 that says what keeps aggregates apart is missing, asked by install and at start."""

from __future__ import annotations

# -- Without its foreign key a child row may be added to a root that is not committed yet (nobody captures it) or stay
# -- when its root goes; a deferred one sees the root too late. A cascade writes where no writer looks, and nothing
# -- captures it in the mirror. A key column that calls two texts equal has one row for two documents.
MISFITS = """
    CREATE FUNCTION crossfeed.misfits(which text) RETURNS SETOF text LANGUAGE sql STABLE AS $$
    WITH part AS (
        SELECT entity, relation, identity AS key, NULL::regclass AS root, NULL::text[] AS root_key
        FROM crossfeed.captured
        UNION ALL
        SELECT c.entity, c.children[n], (SELECT array_agg(name) FROM unnest(c.parents[n:n]) AS name), c.relation,
            c.identity
        FROM crossfeed.captured c, generate_subscripts(c.children, 1) AS n
    )
    SELECT format('table %s needs a foreign key (%s) REFERENCES %s (%s) that is valid and not deferrable', relation,
        array_to_string(key, ', '), root, array_to_string(root_key, ', '))
    FROM part WHERE entity = which AND root IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_constraint f WHERE f.contype = 'f' AND f.conrelid = relation AND f.confrelid = root
            AND f.convalidated AND NOT f.condeferrable AND cardinality(f.conkey) = cardinality(key) AND NOT EXISTS (
                SELECT FROM unnest(key, root_key) AS wanted(here, there)
                WHERE (here, there) NOT IN (
                    SELECT a.attname::text, b.attname::text FROM unnest(f.conkey, f.confkey) AS k(here, there)
                    JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.here
                    JOIN pg_attribute b ON b.attrelid = f.confrelid AND b.attnum = k.there)))
    UNION ALL
    SELECT format('foreign key %I cascades from %s to %s: one aggregate must not write another, use NO ACTION',
        f.conname, there.relation, here.relation)
    FROM pg_constraint f JOIN part here ON here.relation = f.conrelid JOIN part there ON there.relation = f.confrelid
    WHERE f.contype = 'f' AND (f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('c', 'n', 'd'))
        AND which IN (here.entity, there.entity)
        AND (here.entity <> there.entity OR here.root IS NULL AND there.root IS NULL)
    UNION ALL
    SELECT format('column %I of %s has type %s%s, which calls different keys equal: use text with a deterministic'
        ' collation', a.attname, part.relation, t.typname, ' COLLATE ' || l.collname)
    FROM part JOIN pg_attribute a ON a.attrelid = part.relation AND a.attname = ANY (part.key)
    JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype
    LEFT JOIN pg_collation l ON l.oid = a.attcollation
    WHERE part.entity = which
        AND (coalesce(b.typname, t.typname) IN ('citext', 'bpchar') OR NOT coalesce(l.collisdeterministic, true))
    $$
"""
