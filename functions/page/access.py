"""Decides who may read the status page, and who may act on it.

    reading   On this machine's own address everybody may: who reaches it is on the machine. Anywhere else it takes
              CROSSFEED_ADMIN_TOKEN, as the password of HTTP Basic (any user name) or as a bearer token: ids of dead
              letters may be somebody's e-mail address.
    acting    Takes the token in a field of the form, or as a bearer token; never Basic, a cookie or the address, which
              a browser adds by itself to what another site makes it send. Off without a token, and anywhere but on this
              machine's own address unless CROSSFEED_ADMIN_ON_PUBLIC_ADDRESS=true.

A request counts as this machine's own if the port listens on a loopback address, and its Host is one too (else a name
of somebody else's that resolves to 127.0.0.1 would let every web site read along), and no proxy says that it is
another's.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.settings import Settings

_FORWARDED: Final = (
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
)


class Refusal(Enum):
    """Why nothing may be done; the value is said to whoever wanted it."""

    OFF = "Actions are off: CROSSFEED_ADMIN_TOKEN is not set."
    PUBLIC = (
        "Actions are off: this address is not this machine's alone, and CROSSFEED_ADMIN_ON_PUBLIC_ADDRESS is not true."
    )
    WRONG = "That is not the token; nothing was done."


def is_loopback(host: str) -> bool:
    """Whether a host name or an address, an IPv6 one with or without its brackets, is this machine's own."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Door:
    """Who may what.

    Args:
        settings: `admin_token`, `admin_on_public_address`.
        is_own: whether the port listens on an address of this machine's alone.
        is_guarded: whether who comes here has shown a key already that lets him read: Azure's of a function.

    """

    settings: Settings
    is_own: bool
    is_guarded: bool = False

    def may_read(self, headers: Mapping[str, str]) -> bool:
        """Whether who sends these headers (their names in small letters) may read the page."""
        if self.is_guarded or self._is_local(headers):
            return True
        return any(map(self._is_token, (_bearer(headers), _basic(headers))))

    def standing(self, headers: Mapping[str, str]) -> Refusal | None:
        """Say why nobody may act here, whatever his token; None if the token decides."""
        if self.settings.admin_token is None:
            return Refusal.OFF
        if not self._is_local(headers) and not self.settings.admin_on_public_address:
            return Refusal.PUBLIC
        return None

    def refusal(self, headers: Mapping[str, str], token: str | None) -> Refusal | None:
        """Say why this request may not act; None if it may. `token` is what its form holds."""
        refused = self.standing(headers)
        if refused is None and not self._is_token(token) and not self._is_token(_bearer(headers)):
            return Refusal.WRONG
        return refused

    def _is_local(self, headers: Mapping[str, str]) -> bool:
        if not self.is_own or any(name in headers for name in _FORWARDED):
            return False
        try:
            host = urlsplit(f"//{headers.get('host', '')}").hostname
        except ValueError:
            return False
        return host is not None and is_loopback(host)

    def _is_token(self, given: str | None) -> bool:
        """Compare in a time that says nothing, not even how long the token is."""
        if given is None or self.settings.admin_token is None:
            return False
        wanted = self.settings.admin_token.get_secret_value()
        return hmac.compare_digest(_digest(given), _digest(wanted))


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def _bearer(headers: Mapping[str, str]) -> str | None:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else None


def _basic(headers: Mapping[str, str]) -> str | None:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return decoded.partition(":")[2]
