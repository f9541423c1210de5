"""The legacy application: writes game sessions with the bare SDK, in its own shapes, and knows nothing of Crossfeed."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from azure.cosmos.aio import CosmosClient
from azure.cosmos.exceptions import CosmosResourceNotFoundError

from core.content import content_hash, content_of
from core.envelope import Ours, author_of, is_deleted
from core.projection import same_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from azure.cosmos.aio import ContainerProxy
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings
    from tests.integration.mirror_steps import Steps

Json = dict[str, Any]
Key = tuple[str, str]
"""Account and id of a session."""
Sessions = dict[Key, Json]
"""Documents, or rows as documents."""

OLD = ("NotStarted", "InProgress", "Paused", "Completed", "Abandoned")


def session(key: Key, serial: int) -> Json:
    """Make a document of an old version of the application (odd serial), or of a new one."""
    account, id_ = key
    axes = {"courage": {"CurrentValue": serial + 0.5, "LastUpdated": f"2026-01-30T19:00:00.{serial:07d}"}}
    old = serial % 2
    return {
        "id": id_,
        "accountId": account,
        "Status": serial % 5 if old else OLD[serial % 5],
        "PlayerNames": "Ann, Bob" if old else ["Lee, Ann", "Bob"],
        "CompassValues": json.dumps(axes) if old else axes,
        "StartTime": f"2026-01-30T19:00:00.{serial:07d}" + ("" if old else "Z"),
        "EndTime": "9999-12-31T23:59:59.9999999",
        ("Discriminator" if old else "$type"): "GameSession",
        "__legacy": {"row": serial, "names": ["é", None, 1.5]},
    }


@dataclass
class LegacyApplication:
    """Each method is one request, or what one use case of that application sends."""

    container: ContainerProxy
    read_before: dict[Key, list[Json]] = field(default_factory=dict)
    serial: int = 0

    async def read(self, key: Key) -> Json | None:
        try:
            found = dict(await self.container.read_item(key[1], key[0]))
        except CosmosResourceNotFoundError:
            return None
        self.read_before.setdefault(key, []).append(found)
        return found

    async def save(self, key: Key) -> None:
        """Create it, or replace whatever is there whole: nothing that it does not know itself survives."""
        self.serial += 1
        await self.container.upsert_item(session(key, self.serial))

    async def change(self, key: Key) -> None:
        """Read, change a property of its own and one that nobody knows, write back with everything that was there."""
        found = await self.read(key)
        if found is not None and not _is_gone(found):
            self.serial += 1
            await self.container.replace_item(key[1], found | {"SceneCount": self.serial, "__touched": self.serial})

    async def put_back(self, key: Key) -> None:
        """Replace it by what was read a while ago."""
        await self.read(key)
        if before := self.read_before.get(key):
            await self.container.upsert_item(before[len(before) // 2])

    async def delete(self, key: Key) -> None:
        """Delete it for good, as nothing of ours ever does."""
        try:
            await self.container.delete_item(key[1], key[0])
        except CosmosResourceNotFoundError:
            return

    async def move(self, key: Key, account: str) -> None:
        """Give it to another account: a delete, and a create elsewhere."""
        found = await self.read(key)
        if found is not None and not _is_gone(found) and account != key[0]:
            await self.delete(key)
            await self.container.upsert_item(found | {"accountId": account})


def _is_gone(document: Json) -> bool:
    """Tombstones carry our property, which the application was taught to look away from."""
    return bool((document.get("crossfeed") or {}).get("deleted"))


async def rows(steps: Steps, keys: Iterable[Key]) -> Sessions:
    """Return the sessions that Postgres holds."""
    found = {key: await steps.content(key[1], key[0]) for key in keys}
    return {key: content for key, content in found.items() if content is not None}


async def documents(steps: Steps, keys: Iterable[Key]) -> Sessions:
    """Return the sessions that Cosmos DB holds, tombstones apart."""
    found = {key: await steps.current(key[1], key[0]) for key in keys}
    return {key: document for key, document in found.items() if document is not None and not is_deleted(document)}


def same(one: Sessions, other: Sessions) -> bool:
    """Whether two sets of sessions have the same contents."""
    return one.keys() == other.keys() and all(same_json(content_of(one[key]), content_of(other[key])) for key in one)


async def kept(engine: AsyncEngine) -> set[str]:
    """Return the hashes of the contents that are kept as dead letters."""
    async with engine.connect() as connection:
        found = await connection.exec_driver_sql("SELECT document FROM crossfeed.dead_letter")
        return {content_hash(document) for document in found.scalars() if document is not None}


def unresolved(found: Sessions, ours: Sessions, letters: set[str]) -> Sessions:
    """Return the documents that are neither what Postgres holds nor shown: the same content is healed only once."""
    return {
        key: document
        for key, document in found.items()
        if not (key in ours and same_json(content_of(document), content_of(ours[key])))
        and (isinstance(author_of(document), Ours) or content_hash(document) not in letters)
    }


@asynccontextmanager
async def legacy_application(settings: Settings) -> AsyncIterator[LegacyApplication]:
    """Start it, with a client of its own."""
    assert settings.cosmos_key is not None
    key = settings.cosmos_key.get_secret_value()
    async with CosmosClient(settings.require_cosmos(), key) as client:
        database = client.get_database_client(settings.cosmos_database)
        yield LegacyApplication(database.get_container_client("GameSessions"))
