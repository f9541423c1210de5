"""The function of revision 0001 by which whoever reads in phase 2 learns what the switch has left in Cosmos DB."""

from __future__ import annotations

# The switch into this run of the phase: a re-sync opens further epochs of the same phase, and the step from phase 3 is
# no switch, and leaves nothing behind. Applications ask, whose roles need no right to what is recorded of switches.
LEFT_BEHIND = """
    CREATE FUNCTION crossfeed.left_behind() RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT jsonb_build_object('epoch', s.from_epoch, 'barrier', s.facts -> 'barrier')
        FROM (SELECT epoch FROM crossfeed.phase_history WHERE phase <> 2 ORDER BY epoch DESC LIMIT 1) AS before
        JOIN crossfeed.phase_history h ON h.epoch > before.epoch
        JOIN crossfeed.switch s ON s.id = h.switch_id
        WHERE s.facts -> 'complete' IS DISTINCT FROM 'true'::jsonb
        ORDER BY h.epoch LIMIT 1
    $$
"""
