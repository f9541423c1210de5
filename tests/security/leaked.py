"""Looks for secrets in everything that is committed, or could be; false alarms are listed with their reason."""

from __future__ import annotations

import subprocess
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import default_settings

from tests.security.verdict import Checked, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).parents[2]
LISTED = ROOT / ".ci" / "false_alarms.toml"


@dataclass(frozen=True, slots=True)
class Alarm:
    """What looks like a secret; `sha1` is its hash, which can be shown."""

    path: str
    line: int
    kind: str
    sha1: str

    def __str__(self) -> str:
        """Return where it is, and what to write down if it is none."""
        return f'{self.path}:{self.line}: {self.kind}; if it is none: path = "{self.path}", sha1 = ["{self.sha1}"]'


@dataclass(frozen=True, slots=True)
class FalseAlarm:
    """What looks like a secret in files whose path matches, and why it is none; no hashes: whatever is found there."""

    path: str
    why: str
    sha1: tuple[str, ...] = ()

    def covers(self, alarm: Alarm) -> bool:
        """Whether this is what it is about."""
        return fnmatch(alarm.path, self.path) and (not self.sha1 or alarm.sha1 in self.sha1)


def listed(text: str) -> list[FalseAlarm]:
    """Read a list of false alarms.

    Raises:
        ValueError: it is none, or one has no reason.

    """
    found = []
    for item in tomllib.loads(text).get("false_alarm", []):
        if not item.get("path") or not item.get("why"):
            msg = f"a false alarm needs path= and why=: {item}"
            raise ValueError(msg)
        found.append(FalseAlarm(item["path"], item["why"], tuple(item.get("sha1", ()))))
    return found


def committed(root: Path) -> list[str]:
    """Return the paths that are in a checkout, or would be by the next commit; all of them where it is none."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    return sorted({path for path in done.stdout.split("\0") if path and (root / path).is_file()})


def alarms(root: Path, paths: Iterable[str]) -> list[Alarm]:
    """Return everything in these files, relative to `root`, that looks like a secret."""
    found = SecretsCollection(root=str(root))
    with default_settings():
        found.scan_files(*paths)
    return [Alarm(path, one.line_number, one.type, one.secret_hash) for path, one in found]


def scan(root: Path, paths: Sequence[str], false_alarms: Sequence[FalseAlarm]) -> Checked:
    """Look for secrets in files; a listed false alarm that is none any more is an error as well.

    Args:
        root: what paths are relative to.
        paths: the files.
        false_alarms: what is none.

    """
    unread = [one.path for one in false_alarms if not one.sha1]
    found = alarms(root, [path for path in paths if not any(fnmatch(path, pattern) for pattern in unread)])
    lines = [str(alarm) for alarm in found if not any(one.covers(alarm) for one in false_alarms)]
    lines += [
        f"{one.path}: the false alarm {sha1} is not there any more; take it out of {LISTED.name}"
        for one in false_alarms
        for sha1 in one.sha1
        if not any(alarm.sha1 == sha1 and fnmatch(alarm.path, one.path) for alarm in found)
    ]
    if lines:
        return Checked(Verdict.FOUND, f"{len(lines)} alarms in {len(paths)} files", lines)
    return Checked(Verdict.CLEAN, f"no secrets in {len(paths)} files ({len(found)} false alarms, each with its reason)")
