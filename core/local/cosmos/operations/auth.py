"""Checks that a request was signed with the account key."""

from __future__ import annotations

import hmac
import time
from base64 import b64decode, b64encode
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from core.local.cosmos.errors import CosmosError
from core.local.cosmos.operations.entra import EntraTokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.local.cosmos.messages import Request

# The key that Microsoft documents for its emulators; it protects nothing.
EMULATOR_KEY: Final = "C2y6yDjf5/R+ob0N8A7Cgv30VRDJIWEHLM+4QDU5DE2nQ9nDuVTqobD4b8mGGyPMbIZnqyMsEcaGQy67XIw/Jw=="

TOKEN_LIFE: Final = 15 * 60  # seconds
_REMEMBERED: Final = 4096  # characters: nobody fills the memory by what is signed wrongly


class Authenticator:
    """Verifies the HMAC-SHA256 signature of requests against one base64 account key.

    `now` gives the seconds since the epoch: the system's time, because clients sign with theirs, and not the account's.
    """

    def __init__(self, key: str, now: Callable[[], float] = time.time) -> None:
        self._key = b64decode(key)
        self._now = now
        self._entra = EntraTokens(key)
        self._accepts = lru_cache(maxsize=1024)(self._verify)

    def check(self, request: Request) -> None:
        """Let a signed request pass.

        Raises:
            CosmosError: 401 without a signature or with one by another key, 403 for one that is too old.
        """
        header = request.headers.get("authorization")
        if not header:
            raise CosmosError(401, "Required Header authorization is missing. Pass a valid authorization token.")
        kind, link = signed_resource(request.segments)
        if header.startswith(("type=aad", "type%3Daad", "type%3daad")):
            self._entra.check(header, request, kind, self._now())
            return
        dates = f"{request.headers.get('x-ms-date', '').lower()}\n{request.headers.get('date', '').lower()}"
        if "x-ms-date" in request.headers:
            dates = f"{request.headers['x-ms-date'].lower()}\n"
        text = f"{request.method.lower()}\n{kind}\n{link}\n{dates}\n"
        # A client signs the same text many times within a second.
        accepts = self._accepts if len(header) + len(text) <= _REMEMBERED else self._verify
        if not accepts(header, text):
            raise CosmosError(
                401,
                "The input authorization token can't serve the request. Please check that the expected payload is "
                "built as per the protocol, and check the key being used. Server used the following payload to sign: "
                f"{text!r}",
            )

    def _verify(self, header: str, text: str) -> bool:
        prefix, marker, signature = unquote(header).partition("&sig=")
        if not marker or not prefix.startswith("type=master"):
            raise CosmosError(401, "Only authorization tokens of the types master and aad are accepted here.")
        if not self._signed_by_path(text, signature):
            return False
        self._check_date(text)
        return True

    def _check_date(self, text: str) -> None:
        """Refuse a signature of another time; one that was accepted may be so again while it is remembered."""
        _, stated, general, _ = text.rsplit("\n", 3)
        date = stated or general
        try:
            signed = parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError) as error:
            message = f"The input date header {date!r} is invalid. Please pass in RFC 1123 style date format."
            raise CosmosError(401, message) from error
        if abs(self._now() - signed) > TOKEN_LIFE:
            message = f"The authorization token is not valid at the current time: it was signed at {date!r}."
            raise CosmosError(403, message)

    def _signed_by_path(self, text: str, signature: str) -> bool:
        if self._signed(text, signature):
            return True
        verb, kind, link, dates = text.split("\n", 3)
        names = link.split("/")
        # A path of resource ids is signed with its last id alone, in lower case.
        if len(names) == 1 or not names[1].endswith("=="):
            return False
        return self._signed(f"{verb}\n{kind}\n{names[-1].lower()}\n{dates}", signature)

    def _signed(self, text: str, signature: str) -> bool:
        expected = b64encode(hmac.digest(self._key, text.encode(), "sha256"))
        return hmac.compare_digest(expected, signature.encode("utf-8", "replace"))


def signed_resource(segments: list[str]) -> tuple[str, str]:
    """Return the resource type and link that a signature covers."""
    if not segments:
        return "", ""
    if segments[-2:] == ["operations", "partitionkeydelete"]:
        return "colls", "/".join(segments[:-2])
    if len(segments) % 2:
        return segments[-1].lower(), "/".join(segments[:-1])
    if segments[0] == "offers":
        return "offers", segments[1].lower()
    return segments[-2].lower(), "/".join(segments)
