"""Asks whether versions in requirements.lock have known vulnerabilities, and never takes silence for a no."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.security.verdict import Checked, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LOCK = Path(__file__).parents[2] / "requirements.lock"
SERVICES = ("pypi", "osv")
"""Whom pip-audit can ask; the second is asked if the first does not answer."""
TIMEOUT_S = 15
_SHOWN = 5
_PIN = re.compile(r"^([A-Za-z0-9._-]+(?:\[[^\]]*\])?==[^\s;\\]+)")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service said of the packages that it was asked about."""

    known: frozenset[str]
    unknown: frozenset[str]
    vulnerable: tuple[str, ...]


def pins(lock: str) -> list[list[str]]:
    """Return every version that a lock pins, whatever it is pinned for, in lists that hold no package twice."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in lock.splitlines():
        if pin := _PIN.match(line):
            found[pin[1].partition("==")[0]].append(pin[1])
    return [
        [of[turn] for of in found.values() if len(of) > turn]
        for turn in range(max(map(len, found.values()), default=0))
    ]


def asked(service: str, wanted: Sequence[str], *more: str) -> Answer | None:
    """Ask one service by pip-audit, with `more` options; None where there was no answer at all."""
    with tempfile.TemporaryDirectory(prefix="crossfeed-audit-") as place:
        file = Path(place) / "pins.txt"
        file.write_text("\n".join(wanted))
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner", "off"]
        options = ["--vulnerability-service", service, "--timeout", str(TIMEOUT_S), "--format", "json"]
        done = subprocess.run(
            [*command, *options, *more, "--requirement", str(file)], capture_output=True, text=True, check=False
        )
    try:
        return answer(json.loads(done.stdout))
    except (ValueError, KeyError, TypeError):
        return None


def answer(said: dict[str, Any]) -> Answer:
    """Read what pip-audit says: a package that it skips was not looked at, though it ends well."""
    known, unknown, vulnerable = set(), set(), []
    for package in said["dependencies"]:
        name = f"{package['name']} {package.get('version', '')}".strip()
        if "skip_reason" in package:
            unknown.add(package["name"])
            continue
        known.add(name)
        for hole in package["vulns"]:
            fixed = ", ".join(hole["fix_versions"]) or "no version yet"
            vulnerable.append(f"{name}: {hole['id']}, fixed in {fixed}")
    return Answer(frozenset(known), frozenset(unknown), tuple(vulnerable))


def audit(lock: str, ask: Callable[[str, Sequence[str]], Answer | None] = asked) -> Checked:
    """Look at every version in a lock.

    Args:
        lock: its text.
        ask: how one of SERVICES is asked.

    """
    lists = pins(lock)
    count = sum(map(len, lists))
    answers = list(_answers(lists, ask))
    vulnerable = [line for one in answers if one is not None for line in one.vulnerable]
    known = sum(len(one.known) for one in answers if one is not None)
    if vulnerable:
        return Checked(Verdict.FOUND, f"{len(vulnerable)} known vulnerabilities in {count} locked packages", vulnerable)
    if not known:
        return Checked(
            Verdict.NOT_LOOKED,
            f"NOT AUDITED: no source of vulnerabilities ({' or '.join(SERVICES)}) answers from here, so nothing is"
            f" known of the {count} locked packages; run it where there is a way out",
        )
    if known < count:
        names = sorted(name for one in answers if one is not None for name in one.unknown)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return Checked(
            Verdict.NOT_LOOKED,
            f"ONLY PARTLY AUDITED: {count - known} of {count} locked packages are unknown to the source"
            f" ({', '.join(names[:_SHOWN])}{more})",
        )
    return Checked(Verdict.CLEAN, f"none of {count} locked packages has a known vulnerability")


def _answers(
    lists: Sequence[Sequence[str]], ask: Callable[[str, Sequence[str]], Answer | None]
) -> Iterator[Answer | None]:
    for wanted in lists:
        found: Answer | None = None
        for service in SERVICES:
            said = ask(service, wanted)
            if said is not None and (found is None or len(said.known) > len(found.known)):
                found = said
            if found is not None and not found.unknown:
                break
        yield found
