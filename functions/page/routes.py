"""Serves the status page on a process's own port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from functions.page.acting import MOST_BYTES

if TYPE_CHECKING:
    from starlette.requests import Request

    from functions.page.status_page import Answer, StatusPage


def routes_of(page: StatusPage) -> list[Route]:
    """Return / and /status, which are the page, and /status.json."""

    async def look(request: Request) -> Response:
        return _response(await page.get(dict(request.headers)))

    async def look_json(request: Request) -> Response:
        return _response(await page.get_json(dict(request.headers)))

    async def act(request: Request) -> Response:
        try:
            body = await _body(request)
        except ClientDisconnect:
            return Response(status_code=400)
        return _response(await page.post(dict(request.headers), body))

    return [
        Route("/", look),
        Route("/", act, methods=["POST"]),
        Route("/status", look),
        Route("/status", act, methods=["POST"]),
        Route("/status.json", look_json),
    ]


async def _body(request: Request) -> bytes:
    """Return the body; of one that is too long no more than shows that it is."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            break
    return body


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers))
