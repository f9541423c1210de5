"""Adds to a connection string what makes its connections to another machine encrypted, and the server a proven one."""

from __future__ import annotations

import ssl
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from psycopg.pq import Conninfo

from core.errors import ConfigurationError
from core.transport import may_be_plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.settings import Settings

_ENCRYPTED: Final = frozenset({"require", "verify-ca", "verify-full"})
_PROVEN: Final = frozenset({"verify-ca", "verify-full"})
_UNSAID: Final = "prefer"  # libpq's own default, which falls back to plain text without a word


def secured(parameters: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the parameters with `sslmode=verify-full` where neither they nor the environment say otherwise.

    A server on this machine, or on a host of CROSSFEED_PLAINTEXT_HOSTS, is left to libpq. Who wants less for a server
    elsewhere says so in the DSN (`sslmode=require`: encrypted, not proven), and gets what was said. Roots are those of
    `sslrootcert`, PGSSLROOTCERT or ~/.postgresql/root.crt, else those that this Python trusts: the driver's wheel
    brings a libpq that looks for the system's in a place where there is nothing.

    Args:
        parameters: of libpq, as the DSN gives them.
        settings: of the process.

    Raises:
        ConfigurationError: an Entra ID token would be sent to another machine unencrypted.

    """
    unsaid = _of_the_environment()
    found = dict(parameters)
    addresses, names = (str(found.get(of) or unsaid.get(of, "")).split(",") for of in ("hostaddr", "host"))
    hosts = [address or name for address, name in zip_longest(addresses, names, fillvalue="")]
    # What a service of pg_service.conf leads to is only known to libpq.
    is_elsewhere = "service" in found or not all(may_be_plain(host, settings) for host in hosts)
    mode = found.get("sslmode") or unsaid.get("sslmode", _UNSAID)
    if mode == _UNSAID and "sslmode" not in found and is_elsewhere:
        mode = found["sslmode"] = "verify-full"
    if is_elsewhere and settings.postgres_auth == "entra" and mode not in _ENCRYPTED:
        msg = (
            f"CROSSFEED_POSTGRES_DSN says sslmode={mode}: CROSSFEED_POSTGRES_AUTH=entra would send its token"
            " unencrypted; leave sslmode out, or say sslmode=require"
        )
        raise ConfigurationError(msg)
    if mode in _PROVEN and "sslrootcert" not in {*found, *unsaid} and not _has_own_roots():
        found["sslrootcert"] = trusted_roots()
    return found


def trusted_roots() -> str:
    """Return the file of the certificate authorities that this Python trusts; SSL_CERT_FILE names another."""
    return ssl.get_default_verify_paths().cafile or "system"


def cure_of(why: str) -> str:
    """Return what to do, in words that follow the driver's, where a connection failed because of TLS; else nothing."""
    if "does not support SSL" in why:
        return (
            "; a server elsewhere is spoken to by TLS: switch it on there, or say sslmode=… in the DSN, or name the"
            " host in CROSSFEED_PLAINTEXT_HOSTS"
        )
    if "certificate verify failed" in why or "does not match host name" in why or "root certificate" in why:
        return "; name the authority that signed it with sslrootcert=… in the DSN (sslmode=require trusts anybody)"
    return ""


def _has_own_roots() -> bool:
    try:
        return Path("~/.postgresql/root.crt").expanduser().exists()
    except (OSError, RuntimeError):  # a process without a home, or with one that it may not read
        return False


def _of_the_environment() -> dict[str, str]:
    """Return what libpq takes from its own variables (PGHOST, PGSSLMODE, …), and its defaults."""
    return {option.keyword.decode(): option.val.decode() for option in Conninfo.get_defaults() if option.val}
