"""What the relay loads is the same with the shortcut and without, from rows as Postgres itself spells them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from core.content import content_of, dump
from core.domain.account import AccountSettings, Subscription
from core.domain.mappings import ACCOUNTS, GAME_SESSIONS, PENDING_SIGNUPS, USER_PROFILES
from core.domain.samples import sample_documents
from core.identity import Identity
from core.postgres.names import quoted, records, table_name
from core.postgres.phases import read_phase
from core.projection import same_json
from outbox import current_state
from outbox.current_state import Loaded, load
from outbox.cursor import Carries, Cursor, SlotGroup
from outbox.log_reader import read_batch
from outbox.snapshot import Snapshot
from tests.integration.relay_steps import connect, make_primary, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.mapping import EntityMapping
    from core.mappings import Mappings
    from core.settings import Settings

# What only raw SQL writes: other spellings, values beyond a double, times beyond a datetime, keys with escapes.
STRANGE = (
    # Else a bare row would lack what its model adds, and never be an ordinary one.
    (
        f"ALTER TABLE accounts ALTER subscription SET DEFAULT '{Subscription().model_dump_json(by_alias=True)}',"
        f" ALTER settings SET DEFAULT '{AccountSettings().model_dump_json(by_alias=True)}'"
    ),
    "INSERT INTO accounts (id) VALUES ('bare'), ('a/b'), ('q\"q'), ('ü'), (E'back\\\\slash'), ('crossfeed-x'), ('😀')",
    "INSERT INTO accounts (id, created_at) VALUES ('inf', 'infinity'), ('bc', '0044-03-15 BC'), ('far', '20000-01-01')",
    "INSERT INTO accounts (id, created_at) VALUES ('bc3', '0044-03-15 8:00:00.123 BC'), ('bc0', '0044-03-15 8:00 BC')",
    "INSERT INTO accounts (id, created_at) VALUES ('first', '0001-01-01'), ('last', '9999-12-31 23:59:59.999999Z')",
    "INSERT INTO accounts (id, created_at) VALUES ('half', '2026-01-31 08:00:00.5+02')",
    *(
        f"INSERT INTO accounts (id, {column}) VALUES ('{column}{number}', '{value}')"
        for column, values in {
            "settings": (
                '{"x": 1.00000000000000000001}',
                '{"x": 1.5}',
                '{"x": 1e400}',
                '{"x": 9007199254740993}',
                '{"Theme": 5}',
                "[]",
                '{"😀": 1, "\uffee": 2}',
            ),
            "crossfeed_extra": ('{"Email": "x"}', '{"_etag": 1, "new": 2}', '{"new": [1.25, {"deep": null}]}'),
            "crossfeed_spelling": ('{"Email": {"is": ""}}', '{"id": {"is": "crossfeed_spelling1"}}'),
        }.items()
        for number, value in enumerate(values)
    ),
    "INSERT INTO pending_signups (id, email) VALUES ('p', 'tab\there'), ('p', '\"quoted\"'), ('p', 'a@b')",
    "INSERT INTO accounts (id) VALUES ('gone'), ('back')",
    "DELETE FROM accounts WHERE id IN ('gone', 'back')",
    "INSERT INTO accounts (id) VALUES ('back')",
    # A delete and an insert that raced: the row is ordinary, but not newer than its own tombstone.
    "INSERT INTO accounts (id) VALUES ('raced'), ('equal'), ('above')",
    (
        "INSERT INTO crossfeed.tombstone (entity, partition_key, id, epoch, version)"
        " SELECT 'Account', '[\"' || id || '\"]', id, crossfeed_epoch, crossfeed_version"
        " + CASE id WHEN 'raced' THEN 1 WHEN 'equal' THEN 0 ELSE -1 END"
        " FROM accounts WHERE id IN ('raced', 'equal', 'above')"
    ),
)


async def insert(engine: AsyncEngine, mapping: EntityMapping[Any], documents: Sequence[dict[str, Any]]) -> None:
    rows = [mapping.row(content_of(document)) for document in documents]
    columns = ", ".join(map(quoted, mapping.written_columns))
    sql = f"INSERT INTO {table_name(mapping.table)} ({columns}) SELECT {columns} FROM {records(mapping, 'rows')}"
    async with engine.begin() as connection:
        await connection.exec_driver_sql(sql, {"rows": dump(rows)})


@pytest.fixture
async def identities(engine: AsyncEngine) -> list[Identity]:
    """Realistic and strange rows of every mapping; returns what the log names, each once."""
    documents = sample_documents(150, seed=3)
    await make_primary(engine)
    for mapping in (ACCOUNTS, USER_PROFILES, PENDING_SIGNUPS, GAME_SESSIONS):
        await insert(engine, mapping, documents[mapping.container])
    await run(engine, *STRANGE)
    async with engine.connect() as connection:
        result = await connection.exec_driver_sql("SELECT DISTINCT entity, partition_key, id FROM crossfeed.outbox")
        found = [Identity(*row) for row in map(tuple, result)]
    return [*found, Identity("Account", "[1]", "1"), Identity("Account", '["a","b"]', "a")]


async def loaded(engine: AsyncEngine, mappings: Mappings, identities: Sequence[Identity]) -> Loaded:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        return await load(connection, mappings, identities, await read_phase(connection), 3600)


async def test_the_shortcut_loads_what_the_mapping_loads_and_refuses_what_it_refuses(
    engine: AsyncEngine, mappings: Mappings, identities: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = await loaded(engine, mappings, identities)
    monkeypatch.setattr(current_state, "shortcut_of", lambda _: None)
    slow = await loaded(engine, mappings, identities)
    assert quick.refused == slow.refused
    assert len(quick.refused) > 8
    assert quick.buried == slow.buried
    [buried] = quick.buried.values()
    assert {item.held.identity.id for item in buried} == {"raced", "equal"}
    documents = {item.identity: item for item in slow.publish}
    assert len(quick.publish) == len(documents) > 150
    for item in quick.publish:
        other = documents[item.identity]
        assert same_json(item.document, other.document)
        assert (item.stamp, item.taken_etag, item.deleted) == (other.stamp, other.taken_etag, other.deleted)
        assert item.document["crossfeed"] == other.document["crossfeed"]
        json.dumps(item.document)  # nothing in it that the client could not send


async def test_most_rows_do_take_the_shortcut(
    engine: AsyncEngine, mappings: Mappings, identities: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Identity] = []

    def count(mapping: EntityMapping[Any], held: Any, row: Any, into: Loaded) -> None:
        asked.append(held.identity)

    monkeypatch.setattr(current_state, "publish_row", count)
    result = await loaded(engine, mappings, identities)
    assert len(asked) < len(result.publish) / 2


async def test_a_page_names_its_newest_row_and_events_come_by_value(engine: AsyncEngine, settings: Settings) -> None:
    await make_primary(engine)
    async with await connect(settings) as session:
        await session.execute("INSERT INTO accounts (id) SELECT 'a' || n FROM generate_series(1, 5) n")
        await session.execute(
            "INSERT INTO crossfeed.outbox (slot, entity, partition_key, id, epoch, version, deleted, event_id, event,"
            " traceparent) VALUES (16, 'Account', '[\"a1\"]', 'a1', 2, 1, false, 'e1', '{\"a\": 1.0}', 'trace')"
        )
        cursor = await session.execute("SELECT seq, xid::text::bigint, at FROM crossfeed.outbox ORDER BY seq")
        rows = await cursor.fetchall()
    start = Cursor(Snapshot(rows[0][1], rows[0][1], ()))
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        states = await read_batch(connection, group(Carries.STATES, start), 3)
        events = await read_batch(connection, group(Carries.EVENTS, start), 3)
    assert [message.seq for message in states.messages] == [row[0] for row in rows[:3]]
    assert (states.events, states.more) == ((), True)
    assert states.newest is not None
    assert (states.newest.seq, states.newest.xid) == rows[2][:2]
    assert rows[2][2] == datetime.fromisoformat(states.newest.at)
    [event] = events.events
    assert (event.seq, event.identity.id, event.event_id) == (rows[5][0], "a1", "e1")
    assert (event.event, event.traceparent) == ('{"a": 1.0}', "trace")
    assert 0 <= event.age_s < 60
    assert (events.messages, events.more) == ((), False)


def group(carries: Carries, cursor: Cursor) -> SlotGroup:
    return SlotGroup(tuple(range(16)) if carries is Carries.STATES else tuple(range(16, 32)), cursor, carries)
