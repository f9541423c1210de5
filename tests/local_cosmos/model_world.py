"""Says what the documents of a container are after operations, and what each operation is answered with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import orjson

Name: TypeAlias = tuple[str, str]  # the partition key as JSON, the id
Kind: TypeAlias = Literal["create", "upsert", "replace", "patch", "delete"]
Match: TypeAlias = Literal["none", "right", "wrong"]


@dataclass(frozen=True)
class Shape:
    """What a container is made with; `keys` are partition keys, a missing component is `{}`."""

    paths: tuple[str, ...]
    kind: Literal["Hash", "MultiHash"]
    version: int
    keys: tuple[tuple[Any, ...], ...]
    unique: bool
    throughput: int

    @property
    def definition(self) -> dict[str, Any]:
        return {"paths": list(self.paths), "kind": self.kind, "version": self.version}


@dataclass(frozen=True)
class Write:
    """One write of the document `id` under the `key`-th partition key; `u` is what a unique key covers."""

    kind: Kind
    key: int
    id: int
    match: Match = "none"
    u: int = 0
    ttl: int | None = None


@dataclass(frozen=True)
class State:
    """One version of a document: its content and, once it is answered, what the server gave it."""

    n: int
    u: int
    ttl: int | None
    ts: int
    group: int
    etag: str = ""
    lsn: int = 0


@dataclass(frozen=True)
class Version:
    """One change of a document as the feed of all versions shows it; `group` numbers the transaction."""

    group: int
    kind: Literal["create", "replace", "delete"]
    n: int | None
    before: int | None
    expired: bool = False


class RefusedError(Exception):
    """The operation is answered with `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


class World:
    """The documents of one container and every change that they went through."""

    def __init__(self, shape: Shape, default_ttl: int | None) -> None:
        self.shape = shape
        self.default_ttl = default_ttl
        self.documents: dict[Name, State] = {}
        self.versions: dict[Name, list[Version]] = {}
        self.groups = 0

    def name(self, write: Write) -> Name:
        return orjson.dumps(self.shape.keys[write.key]).decode(), str(write.id)

    def run(self, writes: tuple[Write, ...], now: int) -> tuple[list[int], int | None]:
        """Apply writes of one logical partition, all or nothing.

        Returns the status of each and the index of the one that is refused, if any: then nothing has changed.
        """
        documents, versions = dict(self.documents), {name: list(found) for name, found in self.versions.items()}
        self.groups += 1
        statuses: list[int] = []
        for index, write in enumerate(writes):
            try:
                statuses.append(self._one(write, index, now))
            except RefusedError as refused:
                self.documents, self.versions = documents, versions
                return [refused.status if i == index else 424 for i in range(len(writes))], index
        return statuses, None

    def number(self, index: int) -> int:
        """Return the `n` that the `index`-th write of the next transaction carries."""
        return (self.groups + 1) * 1000 + index

    def _one(self, write: Write, index: int, now: int) -> int:
        name = self.name(write)
        old = self.documents.get(name)
        if write.kind == "create" and old is not None:
            raise RefusedError(409)
        if write.kind in {"replace", "patch", "delete"} and old is None:
            raise RefusedError(404)
        if old is not None and write.match == "wrong":
            raise RefusedError(412)
        if write.kind == "delete":
            self._change(name, None, self.groups)
            return 204
        u = old.u if write.kind == "patch" and old is not None else write.u
        ttl = old.ttl if write.kind == "patch" and old is not None else write.ttl
        taken = any(s.u == u for other, s in self.documents.items() if other[0] == name[0] and other != name)
        if self.shape.unique and taken:
            raise RefusedError(409)
        self._change(name, State(self.groups * 1000 + index, u, ttl, now, self.groups), self.groups)
        return 201 if old is None else 200

    def _change(self, name: Name, new: State | None, group: int, *, expired: bool = False) -> None:
        old = self.documents.pop(name, None)
        if new is not None:
            self.documents[name] = new
        kind: Literal["create", "replace", "delete"] = (
            "delete" if new is None else "create" if old is None else "replace"
        )
        version = Version(group, kind, new.n if new else None, old.n if old else None, expired)
        self.versions.setdefault(name, []).append(version)

    def answered(self, name: Name, etag: str, lsn: int) -> None:
        """Remember what the server gave the current version of a document."""
        self.documents[name] = replace(self.documents[name], etag=etag, lsn=lsn)

    def drop(self, key: str) -> None:
        """Delete all documents of one logical partition."""
        self.groups += 1
        for name in [name for name in self.documents if name[0] == key]:
            self._change(name, None, self.groups)

    def expire(self, now: float) -> None:
        """Delete the documents whose time has come."""
        if self.default_ttl is None:
            return
        for name, state in list(self.documents.items()):
            ttl = self.default_ttl if state.ttl is None else state.ttl
            if ttl != -1 and state.ts + ttl <= now:
                self.groups += 1
                self._change(name, None, self.groups, expired=True)

    def body(self, name: Name, n: int, u: int, ttl: int | None) -> dict[str, Any]:
        """Return the document to send."""
        body: dict[str, Any] = {"id": name[1], "n": n, "u": u, "batch": n // 1000}
        if ttl is not None:
            body["ttl"] = ttl
        for path, component in zip(self.shape.paths, orjson.loads(name[0]), strict=True):
            if component == {}:
                continue
            *owners, last = path[1:].split("/")
            place = body
            for owner in owners:
                place = place.setdefault(owner, {})
            place[last] = component
        return body

    def name_of(self, document: dict[str, Any]) -> Name:
        """Return the name of a document that was received."""
        key = []
        for path in self.shape.paths:
            value: Any = document
            for part in path[1:].split("/"):
                value = value.get(part, {}) if isinstance(value, dict) else {}
            key.append(value)
        return orjson.dumps(key).decode(), str(document["id"])
