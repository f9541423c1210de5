"""Greets whoever has registered: the example of a handler of domain events.

`CROSSFEED_CONSUMERS=core.domain.welcomes:HANDLERS`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.domain.events import EVENTS, AccountRegistered
from core.domain.tables import welcomes
from core.handlers import Handlers, Received

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

HANDLERS = Handlers(EVENTS)


@HANDLERS.on(AccountRegistered)
async def welcome(received: Received[AccountRegistered], connection: AsyncConnection) -> None:
    """Write the greeting of a new account; nothing else keeps it from greeting twice."""
    greeting = f"Welcome, {received.event.display_name}!"
    await connection.execute(welcomes.insert().values(account_id=received.aggregate.id, greeting=greeting))
