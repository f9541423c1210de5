"""Holds the databases of the account and the counters that all of them share."""

from __future__ import annotations

from base64 import b64encode
from math import ceil
from secrets import randbelow
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from core.local.cosmos.clock import Clock
from core.local.cosmos.errors import bad_request, conflict, not_found
from core.local.cosmos.state.container import SYSTEM_KEY, Container
from core.local.cosmos.state.partition_key import PartitionKeyDefinition

if TYPE_CHECKING:
    from core.local.cosmos.state.journal import Journal

RU_PER_PARTITION = 6000
RU_PER_GROWN_PARTITION = 10_000  # a partition that is there takes this much before it is split
DEFAULT_THROUGHPUT = 400
MAX_NAME = 255
_FORBIDDEN = frozenset("/\\?#")


class Database:
    """A database: its properties and its containers by name."""

    def __init__(self, name: str, rid_bytes: bytes, properties: dict[str, Any]) -> None:
        self.name = name
        self.rid_bytes = rid_bytes
        self.properties = properties
        self.containers: dict[str, Container] = {}

    @property
    def rid(self) -> str:
        """The resource id."""
        return str(self.properties["_rid"])


class Account:
    """Everything that one server stores; `clock` gives its time.

    It lives in memory. With a `journal` every change is in a file before it is seen here: what the file refuses (500)
    has not happened.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.journal: Journal | None = None
        self.databases: dict[str, Database] = {}
        self.offers: dict[str, dict[str, Any]] = {}
        self.last_etag = randbelow(1 << 32) << 24
        self.last_rid = randbelow(1 << 14) << 8  # of three bytes, for so many has an offer's resource id

    def close(self) -> None:
        """Close the file, if there is one; changes are refused from then on."""
        if self.journal is not None:
            self.journal.close()

    def next_etag(self, ts: int) -> str:
        """Return an entity tag, quoted, that was never used before."""
        self.last_etag += 1
        tag = self.last_etag
        return f'"{tag >> 24 & 0xFFFFFFFF:08x}-0000-0000-0000-{tag & 0xFFFFFF:06x}{ts & 0xFFFFFFFF:08x}00"'

    def _next_rid(self) -> int:
        self.last_rid += 1
        return self.last_rid

    def database(self, name: str) -> Database:
        """Return a database by name or resource id.

        Raises:
            CosmosError: 404 if there is none.
        """
        found = self.databases.get(name)
        if found is None:
            found = next((d for d in self.databases.values() if d.rid == name), None)
        if found is None:
            raise not_found("Owner resource does not exist", 1003)
        return found

    def container(self, database: str, name: str) -> Container:
        """Return a container by names or resource ids.

        Raises:
            CosmosError: 404 if there is none.
        """
        owner = self.database(database)
        found = owner.containers.get(name)
        if found is None:
            found = next((c for c in owner.containers.values() if c.properties["_rid"] == name), None)
        if found is None:
            raise not_found("Owner resource does not exist", 1003)
        return found

    def create_database(
        self, body: dict[str, Any], throughput: int | None, autopilot: dict[str, Any] | None
    ) -> Database:
        """Create a database, with shared `throughput` (RU/s) or `autopilot` settings if given.

        Raises:
            CosmosError: 400 for a bad name, 409 for a name that is taken.
        """
        name = checked_name(body)
        if name in self.databases:
            raise conflict()
        rid_bytes = self._next_rid().to_bytes(4, "big")
        rid = encode_rid(rid_bytes)
        properties: dict[str, Any] = {"id": name, "_rid": rid, "_self": f"dbs/{rid}/"}
        properties |= {"_etag": self._stamp(), "_colls": "colls/", "_users": "users/", "_ts": int(self.clock.now())}
        database = Database(name, rid_bytes, properties)
        granted = throughput is not None or autopilot is not None
        offer = self._offer(properties, throughput, autopilot) if granted else None
        if self.journal is not None:
            self.journal.database_created(database, offer)
        self.databases[name] = database
        if offer is not None:
            self.offers[database.rid] = offer
        return database

    def delete_database(self, name: str) -> None:
        """Delete a database with all its containers.

        Raises:
            CosmosError: 404 if there is none.
        """
        database = self.database(name)
        if self.journal is not None:
            self.journal.database_deleted(database)
        del self.databases[database.name]
        self.offers.pop(database.rid, None)
        for container in database.containers.values():
            self.offers.pop(container.properties["_rid"], None)

    def create_container(
        self, database: str, body: dict[str, Any], throughput: int | None, autopilot: dict[str, Any] | None
    ) -> Container:
        """Create a container with one physical partition per 6,000 RU/s.

        Raises:
            CosmosError: 400 for settings that are not allowed, 404 without the database, 409 for a taken name.
        """
        owner = self.database(database)
        name = checked_name(body)
        PartitionKeyDefinition(body.get("partitionKey") or SYSTEM_KEY)  # what is wrong is told before what is taken
        if name in owner.containers:
            raise conflict()
        rid_bytes = owner.rid_bytes + (0x80000000 | self._next_rid()).to_bytes(4, "big")
        rid = encode_rid(rid_bytes)
        link = f"{owner.properties['_self']}colls/{rid}/"
        properties = {**body, "_rid": rid, "_self": link, "_etag": self._stamp(), "_ts": int(self.clock.now())}
        properties |= {"_docs": "docs/", "_sprocs": "sprocs/", "_triggers": "triggers/", "_udfs": "udfs/"}
        properties |= {"_conflicts": "conflicts/"}
        shared = throughput is None and autopilot is None and owner.rid in self.offers
        budget = int(autopilot["maxThroughput"]) if autopilot else throughput or DEFAULT_THROUGHPUT
        container = Container(properties, rid_bytes, link, max(1, ceil(budget / RU_PER_PARTITION)), self.clock)
        offer = None if shared else self._offer(properties, throughput, autopilot)
        if self.journal is not None:
            self.journal.container_created(container, offer)
        self.adopt(container, owner)
        if offer is not None:
            self.offers[rid] = offer
        return container

    def adopt(self, container: Container, owner: Database) -> None:
        """Make a container, which is in the file if there is one, part of a database."""
        name = container.properties["id"]
        container.path = f"dbs/{quote(owner.name)}/colls/{quote(name)}"
        container.journal = self.journal
        owner.containers[name] = container

    def replace_container(self, database: str, name: str, body: dict[str, Any]) -> Container:
        """Change the TTL and the indexing policy of a container.

        Raises:
            CosmosError: 400 if something else would change, 404 if there is no such container.
        """
        container = self.container(database, name)
        container.expire()  # by the rules of until now
        old = container.properties
        if checked_name(body) != old["id"]:
            raise bad_request("The id of a container cannot change.")
        for fixed in ("partitionKey", "uniqueKeyPolicy"):
            if body.get(fixed, old.get(fixed)) != old.get(fixed):
                message = f"The {fixed} of a container cannot change."
                raise bad_request(message)
        kept = {k: v for k, v in old.items() if k.startswith("_") or k in {"partitionKey", "uniqueKeyPolicy"}}
        container.configure({**body, **kept, "_etag": self._stamp(), "_ts": int(self.clock.now())})
        container.restart_expiry()
        return container

    def delete_container(self, database: str, name: str) -> None:
        """Delete a container with its documents.

        Raises:
            CosmosError: 404 if there is none.
        """
        container = self.container(database, name)
        if self.journal is not None:
            self.journal.container_deleted(container)
        del self.database(database).containers[container.properties["id"]]
        self.offers.pop(container.properties["_rid"], None)

    def _offer(
        self, resource: dict[str, Any], throughput: int | None, autopilot: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Return the offer that grants throughput (RU/s), manual or autoscale, to a database or container."""
        rid = encode_rid(self._next_rid().to_bytes(3, "big"))
        content: dict[str, Any] = {"offerThroughput": throughput or DEFAULT_THROUGHPUT}
        content |= {"offerIsRUPerMinuteThroughputEnabled": False}
        if autopilot:
            content["offerThroughput"] = int(autopilot["maxThroughput"]) // 10
            content["offerAutopilotSettings"] = {"tier": 0, "maximumTierThroughput": 0, **autopilot}
        return {
            "resource": resource["_self"],
            "offerType": "Invalid",
            "offerResourceId": resource["_rid"],
            "offerVersion": "V2",
            "content": content,
            "id": rid,
            "_rid": rid,
            "_self": f"offers/{rid}/",
            "_etag": self._stamp(),
            "_ts": int(self.clock.now()),
        }

    def change_offer(self, offer: dict[str, Any], content: dict[str, Any]) -> None:
        """Replace the throughput that an offer grants, None takes away; partitions that cannot serve it are split."""
        granted = {name: value for name, value in {**offer["content"], **content}.items() if value is not None}
        changed = {**offer, "content": granted, "_etag": self._stamp(), "_ts": int(self.clock.now())}
        if self.journal is not None:
            self.journal.offer_changed(changed)
        offer.update(changed)
        settings = granted.get("offerAutopilotSettings")
        budget = int(settings["maxThroughput"] if settings else granted["offerThroughput"])
        for database in self.databases.values():
            for container in database.containers.values():
                if container.properties["_rid"] == offer["offerResourceId"]:
                    container.grow(ceil(budget / RU_PER_GROWN_PARTITION))

    def _stamp(self) -> str:
        return self.next_etag(int(self.clock.now()))


def encode_rid(raw: bytes) -> str:
    """Return a resource id as Cosmos DB writes it."""
    return b64encode(raw).decode().replace("/", "-")


def checked_name(body: dict[str, Any]) -> str:
    """Return the id of a database or container.

    Raises:
        CosmosError: 400 for an id that is missing or not allowed.
    """
    name = body.get("id")
    if not isinstance(name, str) or not name.strip():
        raise bad_request("The input name is invalid: the required property 'id' is missing or empty.")
    if len(name) > MAX_NAME or not _FORBIDDEN.isdisjoint(name) or name.endswith(" "):
        raise bad_request(
            f"The input name '{name}' is invalid. "
            "Ensure to provide a unique non-empty string less than '255' characters. "
            "It must not hold '/', '\\', '?' or '#', nor end with a space."
        )
    return name
