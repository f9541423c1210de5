"""Lets another cluster go on with this history where the log proves that nothing was lost: after pg_upgrade, say.

A cluster that was upgraded has a new system identifier and the old transaction ids, so its cursors are worth what they
were. That is seen, not believed: every row that was marked as sent has to be in the log, and neither cursors nor log
may be ahead of the transactions there were. That the former cluster is off is the operator's word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cosmos.markers import Charter, Markers
from core.errors import HistoryLostError, StoreUnavailableError
from core.postgres.failures import translated
from outbox.history import judge_charter, judge_cursors, judge_marks, read_facts, sent_rows

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.settings import Settings

_ADOPT = """
    UPDATE crossfeed.slot SET system_identifier = %(system)s, timeline = %(timeline)s, owner = NULL, token = token + 1
"""


async def adopt(engine: AsyncEngine, store: CosmosStore, settings: Settings) -> Charter:
    """Give charter and cursors to the cluster that answers; return the charter. May be repeated.

    Raises:
        HistoryLostError: something was lost, or nothing was ever marked that could prove the contrary; re-sync.
        StoreUnavailableError: a store did not answer; repeat.

    """
    with translated("adopting the log"):
        async with engine.begin() as connection:
            instance = (await read_facts(connection)).instance
            markers = Markers(store, settings.control_container, instance)
            control = await markers.read()
            facts = await read_facts(connection)
            judge_charter(control.charter, facts)
            await judge_cursors(connection)
            sent = sent_rows(control, facts.history)
            if not sent:
                msg = "no marker names a row that was sent, so nothing proves this; run: crossfeed outbox resync"
                raise HistoryLostError(msg)
            await judge_marks(connection, sent)
            await connection.exec_driver_sql(_ADOPT, {"system": facts.system, "timeline": facts.timeline})
    charter = Charter(facts.history, facts.epoch, facts.system, facts.timeline)
    if charter != control.charter and not await markers.grant(charter, control.charter_etag):
        msg = "a relay has moved the charter on just now; stop the former cluster's relays, and repeat"
        raise StoreUnavailableError(msg)
    return charter
