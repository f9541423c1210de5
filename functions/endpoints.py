"""Serves the status page, /livez, /readyz and /metrics of a process on one port, in the process's own event loop.

/         the status page for people, also /status, and /status.json (functions.page)
/livez    200 as long as the event loop turns, whatever the stores do: restarting cures nothing else
/readyz   200 while the data path works, else 503; JSON with everything that is wrong
/metrics  the figures, in Prometheus' text format
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog

from core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.applications import Starlette
    from starlette.requests import Request

    from core.settings import Settings
    from functions.page.status_page import StatusPage
    from functions.probing import Judged, Probe

log = structlog.get_logger()

_GRACE_S: Final = 1


@asynccontextmanager
async def serving(
    settings: Settings, readiness: Probe[Judged], page: StatusPage | None = None
) -> AsyncIterator[str | None]:
    """Serve while the context is open, if CROSSFEED_HTTP_PORT is set; yield the address, such as http://127.0.0.1:8080.

    Raises:
        ConfigurationError: the extra `http` is not installed, or the address cannot be listened on.

    """
    if settings.http_port is None:
        yield None
        return
    try:
        import uvicorn  # noqa: PLC0415 - of the extra `http`

        application = application_of(readiness, page)
    except ImportError as error:
        msg = f"CROSSFEED_HTTP_PORT needs the extra 'http': pip install 'crossfeed[http]' ({error})"
        raise ConfigurationError(msg) from error
    with _listener(settings.http_host, settings.http_port) as listener:
        config = uvicorn.Config(
            application,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=_GRACE_S,
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        # Not `serve()`: it takes the process's signals, which are the program's; its main loop only looks for them.
        await server.startup([listener])
        host, port = listener.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        log.info("http.listening", address=address)
        try:
            yield address
        finally:
            await server.shutdown([listener])


def application_of(readiness: Probe[Judged], page: StatusPage | None = None) -> Starlette:
    """Return the ASGI application; the status page is part of it if there is one.

    Raises:
        ImportError: the extra `http` is not installed.

    """
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest  # noqa: PLC0415 - of the extra `http`
    from starlette.applications import Starlette  # noqa: PLC0415 - of the extra `http`
    from starlette.responses import JSONResponse, Response  # noqa: PLC0415 - of the extra `http`
    from starlette.routing import Route  # noqa: PLC0415 - of the extra `http`

    async def livez(_: Request) -> Response:
        return JSONResponse({"alive": True})

    async def readyz(_: Request) -> Response:
        verdict = await readiness.verdict()
        is_ready = not verdict.problems
        return JSONResponse({"ready": is_ready, "problems": verdict.problems}, status_code=200 if is_ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(await readiness.registry()), media_type=CONTENT_TYPE_LATEST)

    routes = [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)]
    if page is not None:
        from functions.page.routes import routes_of  # noqa: PLC0415 - of the extra `http`

        routes += routes_of(page)
    return Starlette(routes=routes)


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        msg = f"CROSSFEED_HTTP_HOST, CROSSFEED_HTTP_PORT: cannot listen on {host}, port {port} ({error.strerror})"
        raise ConfigurationError(msg) from error
