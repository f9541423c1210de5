"""What can be asked of the settings alone: whether they fit, name what is there, and are safe."""

from __future__ import annotations

import difflib
import re
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from core.errors import ConfigurationError
from core.settings_reference import variables
from core.transport import is_local
from functions.doctor.findings import Examined, Finding, Level, answer, skipped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from core.mappings import Mappings
    from core.settings import Settings
    from functions.doctor.patient import Surroundings

# What Kubernetes sets for a service that is called crossfeed-something.
_OF_A_CLUSTER: Final = re.compile(r"CROSSFEED_(.+_)?(SERVICE_(HOST|PORT.*)|PORT(_\d+_.+)?)")
_VERIFYING: Final = ("verify-ca", "verify-full")
_READABLE: Final = "who sits on the way reads, or answers in the server's place"


def ask_settings(around: Surroundings) -> Examined:
    """Whether every variable fits, and is one that is read."""
    findings = [
        Finding(
            f"{name}: {why}",
            name,
            "no process starts with it; the rest was examined with the default",
            f"set {name} to what the settings reference says, or unset it: crossfeed settings",
        )
        for name, why in around.wrong.items()
    ]
    findings += _unknown(around.environment)
    read = sum(name in around.environment for name in variables())
    return answer("settings", findings, f"{read} are set, and fit")


def _unknown(environment: Iterable[str]) -> list[Finding]:
    known = {name.upper() for name in variables()}
    findings = []
    for name in sorted(environment):
        if not name.startswith("CROSSFEED_") or name.upper() in known or name.startswith("CROSSFEED_TEST_"):
            continue
        if _OF_A_CLUSTER.fullmatch(name):
            continue
        close = difflib.get_close_matches(name.upper(), known, 1, 0.8)
        findings.append(
            Finding(
                f"no setting is called {name}" + (f"; {close[0]} is" if close else ""),
                name,
                "it is read by nobody, so its default, or nothing, is in force",
                f"rename it to {close[0]}" if close else "unset it, or find its name: crossfeed settings",
                Level.WARNING,
            )
        )
    return findings


def ask_mappings(around: Surroundings, found: list[Mappings]) -> Examined:
    """Whether the mappings can be imported, and the handlers if any are named; what was found is added to `found`."""
    with redirect_stdout(sys.stderr):  # a module that prints when it is imported must not get into the answer
        findings = [*_of_mappings(around.settings, found), *_of_consumers(around.settings)]
    names = ", ".join(mapping.name for mappings in found for mapping in mappings)
    return answer("mappings", findings, f"map {names}")


def _of_mappings(settings: Settings, found: list[Mappings]) -> list[Finding]:
    try:
        found.append(settings.load_mappings())
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's own modules raise when imported
        return [
            Finding(
                _said(error, "importing what CROSSFEED_MAPPINGS names"),
                "CROSSFEED_MAPPINGS",
                "no process knows which tables and containers belong together",
                "set CROSSFEED_MAPPINGS=package.module:attribute, importable where the process runs (PYTHONPATH)",
            )
        ]
    return []


def _of_consumers(settings: Settings) -> list[Finding]:
    try:
        settings.load_consumers()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
        return [
            Finding(
                _said(error, "importing what CROSSFEED_CONSUMERS names"),
                "CROSSFEED_CONSUMERS",
                "no mirror starts, and no domain event is handled",
                "set CROSSFEED_CONSUMERS=package.module:attribute, or unset it where nobody handles events",
            )
        ]
    return []


def ask_http(around: Surroundings) -> Examined:
    """Whether what is served over HTTP can be had by those alone who should have it."""
    settings = around.settings
    if settings.http_port is None:
        return skipped("http", "CROSSFEED_HTTP_PORT is not set: no readiness, no metrics and no page are served")
    where = f"CROSSFEED_HTTP_HOST={settings.http_host}"
    if _is_private(settings.http_host):
        return answer("http", [], f"served to this machine alone, on {settings.http_host}")
    findings = []
    if settings.admin_token is not None and settings.admin_on_public_address:
        findings.append(
            Finding(
                "whoever has the token replays and discards dead letters, and it travels without TLS",
                f"{where}, CROSSFEED_ADMIN_ON_PUBLIC_ADDRESS",
                "the token can be read on the way",
                "unset CROSSFEED_ADMIN_ON_PUBLIC_ADDRESS, or let nobody but a proxy with TLS reach the port",
                Level.WARNING,
            )
        )
    return answer("http", findings, f"served on {settings.http_host}, without actions")


def ask_tls(around: Surroundings) -> Examined:
    """Whether what goes over a network to a store is encrypted, and the server's certificate looked at."""
    findings = []
    for host in filter(None, map(str.strip, around.settings.plaintext_hosts.split(","))):
        if not is_local(host):
            what = f"credentials and data may go to {host} unencrypted"
            cure = "give the server a certificate and take the host out, unless nobody else is in that network"
            findings.append(Finding(what, "CROSSFEED_PLAINTEXT_HOSTS", _READABLE, cure, Level.WARNING))
    findings += _of_dsn(around.settings)
    return answer("tls", findings, "whatever leaves this machine is encrypted")


def _of_dsn(settings: Settings) -> list[Finding]:
    try:
        parameters = conninfo_to_dict(settings.require_postgres())
    except (ConfigurationError, psycopg.ProgrammingError):
        return []  # another question's
    mode, host = parameters.get("sslmode"), str(parameters.get("host") or parameters.get("hostaddr") or "")
    if mode in _VERIFYING or mode is None or all(map(is_local, host.split(","))):
        return []  # without a mode, core.postgres.engine looks at certificates
    where = f"CROSSFEED_POSTGRES_DSN, sslmode={mode}"
    what = (
        f"the certificate of {host} is not looked at" if mode == "require" else f"{host} may be spoken to without TLS"
    )
    level = Level.WARNING if mode == "require" else Level.PROBLEM
    return [Finding(what, where, _READABLE, "set sslmode=verify-full, or leave sslmode out", level)]


def _is_private(host: str) -> bool:
    """Whether nobody else reaches an address that is listened on; 0.0.0.0 and :: are all of this machine's."""
    return is_local(host) and host.strip("[]") not in {"", "0.0.0.0", "::"}  # noqa: S104 - compared


def _said(error: BaseException, doing: str) -> str:
    """Return what an error says, if it is ours; others may quote anything."""
    return str(error) if isinstance(error, ConfigurationError) else f"{doing} raised {type(error).__name__}"
