"""The process of a peer, in an environment of its own: what a message costs who writes, how fast messages are handled.

A line on stdin is a command and a number, the answer on stdout is a figure:

    bare SECONDS        transactions a second that insert a row
    published SECONDS   the same with a message in the transaction
    drain MESSAGES      messages a second that a handler that does nothing is given, until none is left
    defaults MESSAGES   the same, with the options that the peer has when nobody sets any
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import sqlalchemy as sa
import uvloop
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from tests.bench.inserting import CLIENTS, transactions_per_s

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ROWS = "CREATE TABLE {table} (LIKE accounts INCLUDING DEFAULTS INCLUDING INDEXES)"


class Peer(Protocol):
    """What is measured, as its documentation says that it is used."""

    driver: str
    """SQLAlchemy's name of the driver that the inserts use, with and without a message."""

    quickest: ClassVar[Mapping[str, Any]]
    """The options, found by trying, with which it handles messages quickest; how, says its module."""

    async def install(self, writing: AsyncEngine) -> None:
        """Make its tables."""
        ...

    async def publish(self, session: AsyncSession, id_: str) -> Any:
        """Write one message in the session's transaction."""
        ...

    async def drain(self, messages: int, **options: Any) -> float:
        """Write so many messages, then have them handled; return how many a second that was.

        `options` are its own, of what handles messages; those that are not given are as it has them by default.
        """
        ...


def serve(make: Callable[[sa.URL], Peer]) -> None:
    """Answer on stdout what is asked on stdin, with the peer of the database PEER_DSN."""
    logging.disable(logging.WARNING)
    uvloop.run(_serve(make))


async def _serve(make: Callable[[sa.URL], Peer]) -> None:
    database = sa.make_url(os.environ["PEER_DSN"])
    peer = make(database)
    table = f"rows_of_{type(peer).__name__.lower()}"
    writing = create_async_engine(database.set(drivername=f"postgresql+{peer.driver}"), pool_size=CLIENTS)
    async with writing.begin() as connection:
        await connection.execute(sa.text(_ROWS.format(table=table)))
    await peer.install(writing)
    for line in sys.stdin:
        what, number = line.split()
        match what:
            case "bare":
                figure = await transactions_per_s(writing, table, float(number))
            case "published":
                figure = await transactions_per_s(writing, table, float(number), peer.publish)
            case "drain":
                figure = await peer.drain(int(number), **peer.quickest)
            case _:
                figure = await peer.drain(int(number))
        print(figure, flush=True)
    await writing.dispose()
