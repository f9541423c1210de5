"""Repository[T] on Postgres: plain rows, optimistic by stamp; the triggers do what makes them crossfeed rows."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from core.content import dump
from core.entity import Entity, Loaded, loaded, read_key
from core.errors import AlreadyExistsError, ConcurrencyError, DocumentRefusedError
from core.identity import ANYWHERE, Identity, KeyArgument
from core.postgres.child_rows import cleared_of, put_children
from core.postgres.engine import raw
from core.postgres.failures import translated
from core.postgres.held import key_record
from core.postgres.names import (
    ROOT_WRITTEN,
    columns_of,
    quoted,
    records,
    root_text,
    same_identity,
    table_name,
)
from core.postgres.selects import rows_of, select_count, select_rows
from core.projection import SPELLING_COLUMN
from core.query import Equals, Query
from core.stamp import Stamp

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.mapping import EntityMapping

T = TypeVar("T", bound=Entity)

_STREAM_ROWS = 500
_names = itertools.count()


class Work(Protocol):
    """What a repository needs of the unit of work that it writes in."""

    @property
    def connection(self) -> AsyncConnection:
        """The connection, in the unit's transaction."""
        ...

    def remember(self, entity: Entity, state: Loaded | None, xid: str | None) -> None:
        """Note what an entity was read or written as, and the transaction id of a write; rolled back with the unit."""
        ...

    async def check_writable(self) -> None:
        """Raise PrimaryMovedError if this process must not write in the recorded phase."""
        ...


class PostgresRepository(Generic[T]):
    """See core.repository.Repository. Statements run at once, in the unit's transaction; a conflict surfaces there.

    Args:
        work: the unit of work.
        mapping: of the entities.
        beside: the mappings of other types in its container, where one key is one document.

    """

    def __init__(self, work: Work, mapping: EntityMapping[T], beside: Sequence[EntityMapping[Any]] = ()) -> None:
        self._work = work
        self._mapping = mapping
        self._beside = beside

    async def get_by_id(self, id_: str, *, partition_key: KeyArgument = ANYWHERE) -> T | None:
        """See Repository. Where several partitions hold the id, the first by partition key is returned."""
        if partition_key is ANYWHERE:
            if not Identity(self._mapping.name, "[]", id_).can_be_stored:
                return None
            found = await self.list(Query((Equals("id", id_),)))
            return min(found, key=read_key, default=None)
        identity = self._mapping.identity_of(partition_key, id_)
        if not identity.can_be_stored:
            return None
        joined = f"{records(self._mapping, 'keys')} AS k ON {same_identity(self._mapping, 't', 'k')}"
        statement = f"{rows_of(self._mapping)} JOIN {joined}"
        entities = [self._entity(row) for row in await self._fetch(statement, {"keys": self._keys(identity)})]
        # A text column takes the number 5 for "5"; to Cosmos DB those are two keys.
        return next((entity for entity in entities if _identity_of(entity) == identity), None)

    async def add(self, entity: T) -> None:
        """See Repository."""
        mapping = self._mapping
        document = mapping.document(entity)
        identity = mapping.identity(document)
        row = mapping.row(document)
        columns = columns_of(mapping.written_columns)
        statement = f"""
            INSERT INTO {table_name(mapping.table)} AS t ({columns}) SELECT {columns} FROM {records(mapping, "rows")}
            RETURNING {self._written}
        """
        for other in self._beside:
            await self._check_free(identity, other)
        written = await self._write(f"add {identity}", statement, {"rows": dump([row])})
        await self._write_children(entity, identity, row, written[0])

    async def update(self, entity: T) -> None:
        """See Repository."""
        mapping = self._mapping
        state = _require_loaded(entity)
        document = mapping.document(entity)
        identity = mapping.identity(document)
        row = mapping.row(document)
        changes = ", ".join(f"{quoted(name)} = {_updated(name)}" for name in mapping.written_columns)
        statement = f"""
            {self._seen("NO KEY UPDATE" if identity == state.identity else "UPDATE")}
            UPDATE {table_name(mapping.table)} t SET {changes}
            FROM {records(mapping, "rows")} AS r, {self._expected}
            RETURNING {self._written}
        """
        written = await self._write(f"update {identity}", statement, self._expect(state) | {"rows": dump([row])})
        if not written:
            raise _moved_on(state)
        await self._write_children(entity, identity, row, written[0])

    async def delete(self, entity: T) -> None:
        """See Repository."""
        mapping = self._mapping
        state = _require_loaded(entity)
        statement = f"""
            {self._seen("UPDATE")}
            DELETE FROM {table_name(mapping.table)} t USING {self._expected}
            RETURNING t.crossfeed_epoch, t.crossfeed_version, pg_current_xact_id()::text
        """
        written = await self._write(f"delete {state.identity}", statement, self._expect(state))
        if not written:
            raise _moved_on(state)
        self._work.remember(entity, None, written[0][2])

    async def exists(self, id_: str, *, partition_key: KeyArgument = ANYWHERE) -> bool:
        """See Repository."""
        return await self.get_by_id(id_, partition_key=partition_key) is not None

    async def list(self, query: Query = Query()) -> builtins.list[T]:  # noqa: B008 - frozen
        """See Repository."""
        statement, parameters = select_rows(self._mapping, query)
        return [self._entity(row) for row in await self._fetch(statement, parameters)]

    async def count(self, query: Query = Query()) -> int:  # noqa: B008 - frozen
        """See Repository."""
        statement, parameters = select_count(self._mapping, query)
        return int((await self._fetch(statement, parameters))[0][0])

    async def stream(self, query: Query = Query()) -> AsyncIterator[T]:  # noqa: B008 - frozen
        """See Repository. A server-side cursor: the transaction stays open meanwhile."""
        statement, parameters = select_rows(self._mapping, query)
        driver = await raw(self._work.connection)
        with translated(f"stream {self._mapping.name}"):
            async with driver.cursor(name=f"crossfeed_stream_{next(_names)}") as cursor:
                cursor.itersize = _STREAM_ROWS
                await cursor.execute(statement.encode(), parameters)
                async for row in cursor:
                    yield self._entity(row)

    # -- statements

    @property
    def _expected(self) -> str:
        """The rest of a statement on the root row `t`: only where it is as it was read."""
        mapping = self._mapping
        keys = "seen AS k" if mapping.children else f"{records(mapping, 'keys')} AS k"
        return f"""{keys} WHERE {same_identity(mapping, "t", "k")}
            AND t.crossfeed_epoch = %(epoch)s AND t.crossfeed_version = %(version)s"""

    def _seen(self, lock: str) -> str:
        """Lock the root of an aggregate, and remove its child rows only if it is as it was read."""
        mapping = self._mapping
        if not mapping.children:
            return ""
        cleared = cleared_of(mapping, "seen").removesuffix(",")
        return f"""
            WITH seen AS MATERIALIZED (
                SELECT {columns_of(mapping.identity_columns, "t")} FROM {table_name(mapping.table)} t
                JOIN {records(mapping, "keys")} AS k ON {same_identity(mapping, "t", "k")}
                WHERE t.crossfeed_epoch = %(epoch)s AND t.crossfeed_version = %(version)s FOR {lock} OF t
            ), {cleared}
        """

    @property
    def _written(self) -> str:
        """What a write of the root returns; from then on its child tables need not write it again."""
        written = "t.crossfeed_epoch, t.crossfeed_version, pg_current_xact_id()::text"
        if not self._mapping.children:
            return written
        return f"{written}, set_config('{ROOT_WRITTEN}', {root_text(self._mapping, 't')}, true)"

    def _keys(self, identity: Identity) -> str:
        return dump([key_record(self._mapping, identity)])

    def _expect(self, state: Loaded) -> dict[str, Any]:
        return {"keys": self._keys(state.identity), "epoch": state.stamp.epoch, "version": state.stamp.version}

    async def _fetch(self, statement: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
        with translated(f"read {self._mapping.name}"):
            result = await self._work.connection.exec_driver_sql(statement, parameters)
            return result.all()

    async def _check_free(self, identity: Identity, other: EntityMapping[Any]) -> None:
        """Refuse a key that an entity of another type has. Two who add at the same time are told apart by the relay."""
        joined = f"{records(other, 'keys')} AS k ON {same_identity(other, 't', 'k')}"
        statement = f"SELECT FROM {table_name(other.table)} t JOIN {joined}"
        keys = {"keys": dump([key_record(other, identity)])}
        try:
            with translated(f"look for a {other.name} in the place of {identity}"):
                async with self._work.connection.begin_nested():
                    found = (await self._work.connection.exec_driver_sql(statement, keys)).all()
        except DocumentRefusedError:  # its columns cannot hold such a key, so it is not there
            return
        if found:
            what = f"a {other.name} has the same partition key and id in {other.container!r}"
            msg = f"{identity} cannot be added: {what}"
            raise AlreadyExistsError(msg)

    async def _write(self, what: str, statement: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
        await self._work.check_writable()
        with translated(what):
            result = await self._work.connection.exec_driver_sql(statement, parameters)
            return result.all()

    async def _write_children(self, entity: T, identity: Identity, row: dict[str, Any], written: Sequence[Any]) -> None:
        """Insert the aggregate's child rows, then remember its stamp: users' triggers may have written it once more."""
        epoch, version, xid = written[:3]
        if self._mapping.children:
            connection = self._work.connection
            statement = f"""
                SELECT t.crossfeed_epoch, t.crossfeed_version, set_config('{ROOT_WRITTEN}', '', true)
                FROM {records(self._mapping, "keys")} AS k
                LEFT JOIN {table_name(self._mapping.table)} t ON {same_identity(self._mapping, "t", "k")}
            """
            with translated(f"write the child tables of {identity}"):
                await put_children(connection, self._mapping, [row])
                [(epoch, version, _)] = await self._fetch(statement, {"keys": self._keys(identity)})
        state = loaded(entity)
        etag = state.etag if state else None
        self._work.remember(entity, Loaded(identity, Stamp(epoch, version), etag, trusted=True), xid)

    # -- entities

    def _entity(self, values: Sequence[Any]) -> T:
        epoch, version, etag, text, *children = values
        row = json.loads(text)
        for child, items in zip(self._mapping.children, children, strict=True):
            row[child.table.name] = json.loads(items)
        document = self._mapping.document_of_row(row)
        entity = self._mapping.entity(document)
        identity = self._mapping.identity(document)
        self._work.remember(entity, Loaded(identity, Stamp(epoch, version), etag, trusted=True), None)
        return entity


def _updated(name: str) -> str:
    """Return what an update makes of a column.

    An entity knows what a document means and not how it was spelled. What the row knows of that is kept: it is used for
    as long as the property means the same, so that whoever wrote the document before can go on reading it.
    """
    if name != SPELLING_COLUMN:
        return f"r.{quoted(name)}"
    one, other = (f"coalesce({table}.{quoted(name)}, '{{}}'::jsonb)" for table in "tr")
    return f"nullif({one} || {other}, '{{}}'::jsonb)"


def _identity_of(entity: Entity) -> Identity | None:
    state = loaded(entity)
    return None if state is None else state.identity


def _require_loaded(entity: Entity) -> Loaded:
    state = loaded(entity)
    if state is None:
        msg = f"{type(entity).__name__} {entity.id!r} was not read by a repository; read it, change it, write it back"
        raise ConcurrencyError(msg)
    return state


def _moved_on(state: Loaded) -> ConcurrencyError:
    return ConcurrencyError(f"{state.identity} was changed or deleted since it was read at {state.stamp}")
