"""What the tests of mirrors under troubles look at: every state that a row ever had, and every version in Cosmos DB."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from core.envelope import is_deleted
from core.postgres.held import read_held
from core.projection import same_json

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.identity import Identity
    from core.mapping import EntityMapping
    from tests.chaos.versions import Versions

_SYSTEM = ("_etag", "_ts", "_lsn", "_rid", "_self", "_attachments", "crossfeed")

# Written by whoever writes the row, so it is there if and only if the row was.
WITNESS = """
    CREATE TABLE seen (number bigint GENERATED ALWAYS AS IDENTITY, id text NOT NULL, etag text);
    CREATE FUNCTION see_row() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO seen (id, etag) VALUES (NEW.id, NEW.crossfeed_etag);
        RETURN NULL;
    END $$;
    CREATE FUNCTION see_tombstone() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO seen (id, etag) VALUES (NEW.id, NEW.etag);
        RETURN NULL;
    END $$;
    CREATE TRIGGER see AFTER INSERT OR UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION see_row();
    CREATE TRIGGER see AFTER INSERT OR UPDATE ON crossfeed.tombstone FOR EACH ROW EXECUTE FUNCTION see_tombstone();
"""


async def went_back(engine: AsyncEngine, versions: Versions) -> list[str]:
    """Compare the states that each row had, in the order in which it had them, with the order in Cosmos DB."""
    order = {
        (identity.id, document["_etag"]): number
        for identity, found in versions.seen.items()
        for number, document in enumerate(found)
    }
    history: dict[str, list[int]] = defaultdict(list)
    async with engine.connect() as connection:
        for id_, etag in map(tuple, await connection.exec_driver_sql("SELECT id, etag FROM seen ORDER BY number")):
            history[id_].append(order[id_, etag])
    return [f"{id_}: {numbers}" for id_, numbers in history.items() if numbers != sorted(numbers)]


async def not_followed(
    engine: AsyncEngine, mapping: EntityMapping[Any], newest: dict[Identity, Document], spared: set[Identity]
) -> list[str]:
    """Say which rows are not what Cosmos DB holds, to the letter and by their ETag; those `spared` may be older."""
    wanted = {identity: document for identity, document in newest.items() if identity not in spared}
    async with engine.connect() as connection:
        held = await read_held(connection, mapping, list(wanted))
    wrong = []
    for item in held:
        document, row, tombstone = wanted[item.identity], item.live_row, item.tombstone
        if is_deleted(document):
            if row is not None or tombstone is None:
                wrong.append(f"{item.identity}: not deleted")
        elif row is None:
            wrong.append(f"{item.identity}: missing")
        elif row.taken_etag != document["_etag"]:
            wrong.append(f"{item.identity}: not the newest")
        elif not same_json(row.document(mapping), _content(document)):
            wrong.append(f"{item.identity}: other content")
    return wrong


def _content(document: Document) -> Document:
    return {name: value for name, value in document.items() if name not in _SYSTEM}
