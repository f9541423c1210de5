"""Cuts the results of a query into pages that can be resumed by a token."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from core.local.cosmos.errors import bad_request

if TYPE_CHECKING:
    from core.local.cosmos.partition import PhysicalPartition
    from core.local.cosmos.sql.program import Program, Row
    from core.local.cosmos.targets import Target

MAX_PAGE_BYTES = 4 * 1024 * 1024
MAX_TOKEN_BYTES = 4096  # HTTP clients refuse headers over 8 KB


@dataclass(frozen=True, slots=True)
class Page:
    """Results and the token to go on with, None after the last page."""

    rows: list[Any]
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

    def encode(self) -> str:
        """Return the token; sort keys that are too long to travel are left out."""
        segments = [list(segment) for segment in self.segments]
        raw = orjson.dumps([segments, self.number, self.part, self.count, self.keys])
        if len(raw) > MAX_TOKEN_BYTES:
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


def streamed(program: Program, environment: dict[str, Any], target: Target, limit: int, resume: Resume) -> Page:
    """Return a page of a query whose rows come document by document: one physical partition, even if it is empty."""
    todo = [(partition, done) for partition in target.partitions if (done := resume.read_in(partition)) is not None]
    if not todo:
        return Page([], None)
    partition, done = todo[0]
    rows: list[Any] = []
    size, last = 0, done
    for document in target.documents_in(partition, done):
        if len(rows) >= limit or size >= MAX_PAGE_BYTES:
            return Page(rows, _token([(partition, last), *todo[1:]]))
        found = program.rows_of(environment, document.body)
        if found:
            rows.extend(found)
            size += len(document.raw)
        last = document.rid
    return Page(rows, _token(todo[1:]))


def _token(todo: list[tuple[PhysicalPartition, int]]) -> str | None:
    if not todo:
        return None
    # Behind the first, a partition needs a segment only if it was begun, as the children of a split one were.
    begun = [todo[0], *((partition, done) for partition, done in todo[1:] if done)]
    return Resume(tuple(Segment(p.minimum, p.maximum, done) for p, done in begun)).encode()


def collected(program: Program, environment: dict[str, Any], target: Target, limit: int, resume: Resume) -> Page:
    """Return a page of a query that must see all documents first: sorted, grouped, distinct or cut."""
    window = program.window(environment)
    rows = program.sorted_rows(environment, ((document.rid, document.body) for document in target.documents()))
    first = resume.count + (window.offset or 0)
    if resume.keys is not None and program.resumable:
        if len(resume.keys) != program.sort_width:
            raise bad_request("The continuation token belongs to another query.")
        try:
            rows = [row for row in rows if program.follows(row, resume.keys, resume.number, resume.part)]
        except TypeError as error:
            raise bad_request("The continuation token is not valid.") from error
        first = 0
    last = min([len(rows)] + [first + n - resume.count for n in (window.limit, window.top) if n is not None])
    page = rows[first : min(first + limit, last)]
    if not page or first + len(page) >= last:
        return Page([row.value for row in page], None)
    return Page([row.value for row in page], _after(page[-1], resume.count + len(page), program).encode())


def _after(row: Row, count: int, program: Program) -> Resume:
    keys = [list(key) for key in row.keys] if program.resumable else None
    return Resume((), row.number, row.part, count, keys)
