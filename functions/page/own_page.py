"""Makes the status page that a relay or a mirror serves on its own port."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext
from typing import TYPE_CHECKING

from core.postgres.dead_letters import Direction
from functions.page.access import Door, is_loopback
from functions.page.status_page import StatusPage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from functions.bootstrap import Application
    from functions.probing import Judged, Probe


def page_of_relay(application: Application, readiness: Probe[Judged]) -> StatusPage:
    """Return the page of a relay, which may replay what was going to Cosmos DB."""
    return _page("relay", application, readiness, Direction.TO_COSMOS)


def page_of_mirror(application: Application, readiness: Probe[Judged]) -> StatusPage:
    """Return the page of a mirror, which may replay what was going to Postgres."""
    return _page("mirror", application, readiness, Direction.TO_POSTGRES)


def _page(kind: str, application: Application, readiness: Probe[Judged], replays: Direction) -> StatusPage:
    async def own_problems() -> Sequence[str]:
        return (await readiness.verdict()).problems

    settings = application.settings
    return StatusPage(
        f"{kind} {socket.gethostname()}:{os.getpid()}",
        Door(settings, is_own=is_loopback(settings.http_host)),
        lambda: nullcontext(application),
        frozenset((replays,)),
        own_problems,
    )
