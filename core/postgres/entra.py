"""Gives each new Postgres connection a Microsoft Entra ID token that is still good, and asks for few of them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import psycopg
from azure.core.exceptions import AzureError

if TYPE_CHECKING:
    from collections.abc import Callable

    from azure.core.credentials import AccessToken
    from azure.core.credentials_async import AsyncTokenCredential

SCOPE: Final = "https://ossrdbms-aad.database.windows.net/.default"
SPARE_S: Final = 300.0
"""A token with fewer seconds to live is replaced: the server reads it after the connection was made."""


class EntraPassword:
    """The token that is the password of connections as they are made; those that were made outlive it.

    Args:
        credential: who is asked for tokens; whoever opened it closes it.
        clock: seconds since the epoch, as tokens say when they end.

    """

    def __init__(self, credential: AsyncTokenCredential, clock: Callable[[], float] = time.time) -> None:
        self._credential = credential
        self._clock = clock
        self._token: AccessToken | None = None
        self._asking = asyncio.Lock()

    async def current(self) -> str:
        """Return a token. A pool that opens many connections at once asks once; an old one will do while it lives.

        Raises:
            psycopg.OperationalError: there is none; a connection that could not be made, to whoever needs one.

        """
        async with self._asking:
            if self._token is None or self._left(self._token) < SPARE_S:
                try:
                    self._token = await self._credential.get_token(SCOPE)
                except AzureError as error:
                    if self._token is None or self._left(self._token) <= 0:
                        msg = f"no Microsoft Entra ID token for Postgres ({type(error).__name__})"
                        raise psycopg.OperationalError(msg) from error
            return self._token.token

    def refused(self, error: psycopg.OperationalError) -> None:
        """Ask for another token next time, if what became of a connection says that the server refused this one."""
        if any(sign in str(error) for sign in ("authentication", "token")):
            self._token = None

    def _left(self, token: AccessToken) -> float:
        return token.expires_on - self._clock()
