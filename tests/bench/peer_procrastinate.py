"""procrastinate as its documentation says: a table of jobs that a worker's tasks take and delete one by one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from procrastinate import App, PsycopgConnector  # type: ignore[import-not-found] # its environment has it

from tests.bench.inserting import CLIENTS
from tests.bench.peer_process import serve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import URL
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

BATCH = 500


class Procrastinate:
    """See tests.bench.peer_process.Peer."""

    driver = "psycopg"  # as Crossfeed's inserts
    # Of 1, 4, 8, 16 and 32 tasks at a time none was clearly the quickest; keeping the jobs was no quicker.
    quickest: ClassVar[Mapping[str, Any]] = {"concurrency": CLIENTS, "delete_jobs": "always"}

    def __init__(self, database: URL) -> None:
        dsn = database.set(drivername="postgresql").render_as_string(hide_password=False)
        self._app = App(connector=PsycopgConnector(conninfo=dsn, min_size=CLIENTS, max_size=2 * CLIENTS))

        @self._app.task(name="orders")  # type: ignore[untyped-decorator] # its types are in its environment
        async def handle(id: str) -> None:  # noqa: A002 - what the message says
            """Do nothing."""

        self._task = handle

    async def install(self, writing: AsyncEngine) -> None:
        await self._app.open_async()
        await self._app.schema_manager.apply_schema_async()

    async def publish(self, session: AsyncSession, id_: str) -> Any:
        raw = await (await session.connection()).get_raw_connection()
        return await self._task.configure(connection=raw.driver_connection).defer_async(id=id_)

    async def drain(self, messages: int, **options: Any) -> float:
        await self._app.connector.execute_query_async("TRUNCATE procrastinate_jobs CASCADE")
        for first in range(0, messages, BATCH):
            bodies = ({"id": f"id-{number}"} for number in range(first, min(messages, first + BATCH)))
            await self._task.batch_defer_async(*bodies)
        began = time.perf_counter()
        await self._app.run_worker_async(wait=False, install_signal_handlers=False, **options)
        return messages / (time.perf_counter() - began)


if __name__ == "__main__":
    serve(Procrastinate)
