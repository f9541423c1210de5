"""Cuts the results of a query into pages that can be resumed by a token."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import orjson

from core.local.cosmos.errors import bad_request
from core.local.cosmos.sql.evaluate import CONTEXT

if TYPE_CHECKING:
    from core.local.cosmos.errors import CosmosError
    from core.local.cosmos.operations.targets import Target
    from core.local.cosmos.sql.program import Program, Row
    from core.local.cosmos.sql.signature import Context
    from core.local.cosmos.state.partition import PhysicalPartition

MAX_PAGE_BYTES = 4 * 1024 * 1024
MAX_RESULT_BYTES = 64 * 1024 * 1024  # of one document, whose results no page divides
MAX_PAGE_SECONDS = 2.0  # of reading documents that hold nothing which is asked for
MAX_TOKEN_BYTES = 4096  # HTTP clients refuse headers over 8 KB


@dataclass(frozen=True, slots=True)
class Page:
    """Results as JSON and the token to go on with, None after the last page."""

    rows: list[bytes]
    token: str | None


class Segment(NamedTuple):
    """The range `[minimum, maximum)` of effective partition keys, read up to the document `number`."""

    minimum: str
    maximum: str
    number: int


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a page stopped.

    A scan is at `segments`, of which the first is next, with nothing read behind the last. Other results go on after
    `count` rows or, if they are sorted, after the row `part` of the document `number` with sort `keys`.
    """

    segments: tuple[Segment, ...] = ()
    number: int = 0
    part: int = 0
    count: int = 0
    keys: list[Any] | None = None

    def encode(self, limit: int) -> str:
        """Return the token; sort keys that would make it longer than `limit` bytes are left out."""
        segments = [list(segment) for segment in self.segments]
        raw = orjson.dumps([segments, self.number, self.part, self.count, self.keys])
        if len(raw) > min(limit * 3 // 4, MAX_TOKEN_BYTES):
            raw = orjson.dumps([segments, 0, 0, self.count, None])
        return urlsafe_b64encode(raw).decode()

    def read_in(self, partition: PhysicalPartition) -> int | None:
        """Return the number up to which a partition was scanned, None if it is done."""
        if not self.segments or partition.minimum >= self.segments[-1].maximum:
            return 0
        for segment in self.segments:
            if segment.minimum <= partition.minimum < segment.maximum:
                return segment.number
        return None


def decode(token: str | None) -> Resume:
    """Return what a token says; a token of the real service, which names a document unknown here, starts again.

    Raises:
        CosmosError: 400 for a token that no query gave out.
    """
    if not token or token.startswith(("-RID:", "+RID:")):
        return Resume()
    try:
        segments, number, part, count, keys = orjson.loads(urlsafe_b64decode(token))
        resume = Resume(tuple(Segment(*segment) for segment in segments), number, part, count, keys)
    except (ValueError, TypeError) as error:
        raise bad_request("The continuation token is not valid.") from error
    numbers = [number, part, count, *(segment.number for segment in resume.segments)]
    valid = all(type(value) is int and value >= 0 for value in numbers)
    valid = valid and all(type(s.minimum) is str and type(s.maximum) is str for s in resume.segments)
    if not valid or not (keys is None or (isinstance(keys, list) and all(_is_key(key) for key in keys))):
        raise bad_request("The continuation token is not valid.")
    return resume


def _is_key(key: object) -> bool:
    return isinstance(key, list) and len(key) == 2 and type(key[0]) is int  # noqa: PLR2004 - rank and value


@dataclass(frozen=True, slots=True)
class Reading:
    """One request for a page: a query over a target, from `resume` on, of at most `limit` rows.

    Its token may have `token_bytes`.
    """

    program: Program
    environment: dict[str, Any]
    target: Target
    limit: int
    resume: Resume
    token_bytes: int

    def page(self) -> Page:
        """Return the page.

        Raises:
            CosmosError: 400 for a token of another query.
        """
        if self.program.constant:
            return Page([_json(row) for row in self.program.rows(self.environment, ())], None)
        return self._streamed() if self.program.streams else self._collected()

    def _streamed(self) -> Page:
        """Return a page of rows that come document by document: one physical partition, even if it is empty."""
        partitions = self.target.partitions
        todo = [(partition, done) for partition in partitions if (done := self.resume.read_in(partition)) is not None]
        if not todo:
            return Page([], None)
        partition, done = todo[0]
        rows: list[bytes] = []
        size, last = 0, done
        context: Context = self.environment[CONTEXT]
        for document in self.target.documents_in(partition, done):
            is_late = last != done and context.elapsed > MAX_PAGE_SECONDS
            if len(rows) >= self.limit or size >= MAX_PAGE_BYTES or is_late:
                return Page(rows, self._token([(partition, last), *todo[1:]]))
            for value in self.program.rows_of(self.environment, document.body):
                rows.append(document.raw if value is document.body else _json(value))
                size += len(rows[-1])
                if size > MAX_RESULT_BYTES:
                    raise _too_large()
            last = document.rid
        return Page(rows, self._token(todo[1:]))

    def _token(self, todo: list[tuple[PhysicalPartition, int]]) -> str | None:
        if not todo:
            return None
        # Behind the first, a partition needs a segment only if it was begun, as the children of a split one were.
        begun = [todo[0], *((partition, done) for partition, done in todo[1:] if done)]
        return Resume(tuple(Segment(p.minimum, p.maximum, done) for p, done in begun)).encode(self.token_bytes)

    def _collected(self) -> Page:
        """Return a page of a query that must see all documents first: sorted, grouped, distinct or cut."""
        window = self.program.window(self.environment)
        rows = self._all_rows()
        done = self.resume.count
        first = done + (window.offset or 0)
        if self.resume.keys is not None and self.program.resumable:
            if len(self.resume.keys) != self.program.sort_width:
                raise bad_request("The continuation token belongs to another query.")
            try:
                rows = rows[self._place(rows, self.resume.keys) :]
            except TypeError as error:
                raise bad_request("The continuation token is not valid.") from error
            first = 0
        last = min([len(rows)] + [first + n - done for n in (window.limit, window.top) if n is not None])
        values: list[bytes] = []
        size = 0
        for row in rows[first : min(first + self.limit, last)]:
            values.append(_json(row.value))
            size += len(values[-1])
            if size >= MAX_PAGE_BYTES:
                break
        page = rows[first : first + len(values)]
        if not page or first + len(page) >= last:
            return Page(values, None)
        keys = [list(key) for key in page[-1].keys] if self.program.resumable else None
        after = Resume((), page[-1].number, page[-1].part, done + len(page), keys)
        return Page(values, after.encode(self.token_bytes))

    def _place(self, rows: list[Row], keys: list[Any]) -> int:
        """Return the index of the first row behind the last one that was read."""
        return bisect_left(
            rows, x=True, key=lambda row: self.program.follows(row, keys, self.resume.number, self.resume.part)
        )

    def _all_rows(self) -> list[Row]:
        """Return all rows, which the pages of one query over unchanged partitions need to compute but once."""
        partitions = self.target.partitions
        if not partitions:
            return self.program.sorted_rows(self.environment, ())
        parameters = orjson.dumps({name: value for name, value in self.environment.items() if name != CONTEXT})
        scope = (self.target.minimum, self.target.maximum, self.target.key)
        state = (self.program, parameters, scope, [(p.id, p.lsn, len(p.by_rid)) for p in partitions])
        known = _latest.get(partitions[0])
        if known is not None and known[0] == state and (self.resume.count or self.resume.keys):
            return known[1]
        documents = ((document.rid, document.body) for document in self.target.documents())
        rows = self.program.sorted_rows(self.environment, documents)
        if len(rows) > self.limit:
            _latest[partitions[0]] = (state, rows)
        return rows


def _json(value: object) -> bytes:
    if _is_too_large(value):
        raise _too_large()
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise bad_request("The results of the query are nested too deeply.") from error


def _is_too_large(value: object) -> bool:
    """Say whether the JSON of a value would fill the memory: a value may hold the same large text many times."""
    room = MAX_RESULT_BYTES
    todo: list[Any] = [value]
    while todo:
        item = todo.pop()
        kind = type(item)
        if kind is not str and kind is not list and kind is not dict:
            continue
        room -= len(item)
        if room < 0:
            return True
        if kind is list:
            todo += item
        elif kind is dict:
            todo += item.values()
    return False


def _too_large() -> CosmosError:
    return bad_request("The results that the query makes of one document are too large.")


# The rows of the last query that took several pages, by the first partition that it reads.
_latest: WeakKeyDictionary[PhysicalPartition, tuple[Any, list[Row]]] = WeakKeyDictionary()
