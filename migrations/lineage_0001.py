"""What revision 0001 knows of its own history, so that a database which lost a part of it can be told from itself."""

from __future__ import annotations

LINEAGE_TABLE = """
    CREATE TABLE crossfeed.lineage (
        only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        -- Whose markers are whose in the control container; a copy and a restored database keep it.
        instance  uuid NOT NULL DEFAULT gen_random_uuid(),
        -- Another one after every re-sync: what was marked under the one before binds nobody.
        history   uuid NOT NULL DEFAULT gen_random_uuid(),
        -- A re-sync that is under way, so that it can be resumed: the history that it opens.
        opening   uuid,
        -- The epoch in which it publishes everything again, once that is open.
        republish bigint,
        CHECK (republish IS NULL OR opening IS NOT NULL)
    )
"""

LINEAGE_ROW = "INSERT INTO crossfeed.lineage DEFAULT VALUES"
