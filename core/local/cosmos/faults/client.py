"""Switches the faults of a server in another process, as `Faults` does for one in this."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import aiohttp

from core.local.cosmos.faults.rules import Rule

if TYPE_CHECKING:
    import ssl
    from types import TracebackType


class FaultsError(Exception):
    """The server refused: HTTP `status` and its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class FaultsClient:
    """Talks to the admin endpoint of the server at `endpoint` with the account `key`, as an async context.

    `tls` is how the certificate of an https endpoint is verified. Every call raises FaultsError if the server refuses.
    """

    def __init__(self, endpoint: str, key: str, *, tls: ssl.SSLContext | bool = True) -> None:
        self._base = endpoint.rstrip("/") + "/_crossfeed/"
        self._headers = {"authorization": f"Bearer {key}"}
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the connection."""
        self._session = aiohttp.ClientSession(headers=self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()

    async def add(self, rule: Rule) -> Rule:
        """Switch a rule on and return it with its name."""
        return Rule.model_validate(await self._call("POST", "faults", rule.model_dump(mode="json")))

    async def remove(self, name: str) -> int:
        """Switch a rule off and return how many faults of it really happened."""
        return int((await self._call("DELETE", f"faults/{quote(name, safe='')}"))["injected"])

    async def clear(self) -> None:
        """Switch all rules off, drop the requests that are held or delayed, and forget all counts."""
        await self._call("DELETE", "faults")

    async def rules(self) -> list[Rule]:
        """Return the rules that are switched on, in their order."""
        return [Rule.model_validate(rule) for rule in (await self._call("GET", "faults"))["rules"]]

    async def injected(self) -> dict[str, int]:
        """Return how many faults really happened, by the name of their rule."""
        counts: dict[str, int] = (await self._call("GET", "injected"))["counts"]
        return counts

    async def seed(self) -> int:
        """Return what all draws come from."""
        return int((await self._call("GET", "seed"))["seed"])

    async def set_seed(self, seed: int) -> None:
        """Begin all draws again, from another seed."""
        await self._call("PUT", "seed", {"seed": seed})

    async def held(self) -> list[dict[str, Any]]:
        """Return the requests that are or were held back, with their `outcome`."""
        requests: list[dict[str, Any]] = (await self._call("GET", "held"))["held"]
        return requests

    async def release(self, id_: str) -> dict[str, Any]:
        """Apply a held request now and return its outcome."""
        outcome: dict[str, Any] = await self._call("POST", f"held/{id_}")
        return outcome

    async def drop(self, id_: str) -> dict[str, Any]:
        """Forget what a held request asks for and return its outcome."""
        outcome: dict[str, Any] = await self._call("DELETE", f"held/{id_}")
        return outcome

    async def release_all(self) -> list[dict[str, Any]]:
        """Apply all held requests in the order in which they came and return their outcomes."""
        outcomes: list[dict[str, Any]] = (await self._call("POST", "held"))["released"]
        return outcomes

    async def advance_clock(self, seconds: float) -> float:
        """Move the server's clock, back for a negative value, and return its time in seconds since the epoch."""
        return float((await self._call("POST", "clock", {"advance": seconds}))["now"])

    async def split(self, database: str, container: str, range_id: str = "0") -> list[str]:
        """Split a physical partition in two and return the ids of the new partition key ranges."""
        body = {"database": database, "container": container, "range_id": range_id}
        children: list[str] = (await self._call("POST", "splits", body))["children"]
        return children

    async def _call(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        assert self._session is not None, "FaultsClient is to be used as `async with`"
        async with self._session.request(method, self._base + path, json=body, ssl=self._tls) as answer:
            if answer.status == HTTPStatus.NO_CONTENT:
                return None
            content = await answer.json()
            if answer.status >= HTTPStatus.BAD_REQUEST:
                raise FaultsError(answer.status, content["message"])
            return content
