"""Decides where connections without TLS are accepted: on this machine, and to hosts that an operator names."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from core.errors import ConfigurationError

if TYPE_CHECKING:
    from core.settings import Settings


def is_local(host: str) -> bool:
    """Whether a host is this machine: a Unix socket's directory, `localhost`, a loopback address, or none at all.

    Names are not looked up: what they lead to is not ours to trust.
    """
    name = host.strip("[]").rstrip(".").lower()
    if not name or name.startswith(("/", "@")) or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback or address.is_unspecified


def may_be_plain(host: str, settings: Settings) -> bool:
    """Whether a connection to this host may do without TLS: it is local, or in CROSSFEED_PLAINTEXT_HOSTS."""
    named = {name.strip().lower() for name in settings.plaintext_hosts.split(",")}
    return is_local(host) or host.strip("[]").rstrip(".").lower() in named


def refuse_plaintext(variable: str, url: str, tls_scheme: str, settings: Settings) -> None:
    """Make sure that what a setting names is spoken to by TLS, unless its host may be spoken to without.

    Args:
        variable: the setting's name, for the message; its value is not shown, since it may hold a password.
        url: its value.
        tls_scheme: the scheme that means TLS: `https`, `rediss`.
        settings: of the process.

    Raises:
        ConfigurationError: the scheme is another and the host is elsewhere; the message says what to set.

    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme.lower() != tls_scheme and not may_be_plain(host, settings):
        msg = (
            f"{variable} would send credentials and data to {host} unencrypted: use {tls_scheme}://, or where that"
            f" cannot be (an emulator in a private network) name the host in CROSSFEED_PLAINTEXT_HOSTS"
        )
        raise ConfigurationError(msg)
