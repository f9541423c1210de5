"""Fetches the tests that the makers of azure-cosmos ship inside its source distribution."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".sdk_tests_cache"  # ignored by git
LOCK = ROOT / "requirements.lock"
_DISTRIBUTION = "azure-cosmos"
_FETCH_TIMEOUT_S = 120.0
_SHOWN_LINES = 3


class SourceError(Exception):
    """The tests could not be fetched; the message says what to do."""


@dataclass(frozen=True)
class Pinned:
    """The locked version of azure-cosmos: its line in the lock and the SHA-256 sums of its files."""

    version: str
    requirement: str
    sums: frozenset[str]

    @property
    def archive(self) -> str:
        """The file name of the source distribution."""
        return f"azure_cosmos-{self.version}.tar.gz"


def pinned(lock: Path = LOCK) -> Pinned:
    """Return what the lock says.

    Raises:
        SourceError: the installed version is another one.
    """
    found = re.search(rf"^{_DISTRIBUTION}==(\S+)((?: \\\n +--hash=sha256:[0-9a-f]+)+)$", lock.read_text(), re.MULTILINE)
    assert found is not None, f"{lock} names no {_DISTRIBUTION}"
    locked, installed = found[1], version(_DISTRIBUTION)
    if locked != installed:
        raise SourceError(f"{_DISTRIBUTION} {installed} is installed, the lock says {locked}: run `make environment`")
    return Pinned(locked, found[0], frozenset(re.findall(r"sha256:([0-9a-f]+)", found[2])))


def fetch(pin: Pinned, cache: Path = CACHE) -> Path:
    """Return the source distribution; pip downloads it unless a whole one lies in `cache`.

    Raises:
        SourceError: pip could not download it.
    """
    archive = cache / pin.archive
    if archive.is_file() and hashlib.sha256(archive.read_bytes()).hexdigest() in pin.sums:
        return archive
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache) as name:
        folder = Path(name)
        (folder / "requirements.txt").write_text(pin.requirement + "\n")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
        command += ["download", "--no-deps", "--no-binary", _DISTRIBUTION, "--require-hashes"]
        command += ["--dest", name, "--requirement", str(folder / "requirements.txt")]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S)
            said, failed = done.stderr.strip(), done.returncode != 0
        except subprocess.TimeoutExpired:
            said, failed = f"no answer within {_FETCH_TIMEOUT_S:.0f} s", True
        if failed or not (folder / pin.archive).is_file():
            raise SourceError(
                f"pip could not download {pin.archive}, whose tests are run here. It is needed once: give pip a way to "
                f"PyPI or to a mirror of it, or put the file into {cache} by hand. pip said:\n"
                + "\n".join(said.splitlines()[-_SHOWN_LINES:])
            )
        (folder / pin.archive).replace(archive)
    return archive


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack the tests into `folder` and return where they lie."""
    with tarfile.open(archive) as source:
        top = source.getnames()[0].partition("/")[0]
        members = [member for member in source.getmembers() if member.name.startswith(f"{top}/tests/")]
        # By the hash it is what the lock names. Python 3.11.0 to 3.11.3 have no filter.
        source.extraction_filter = getattr(tarfile, "data_filter", None)
        source.extractall(folder, members)
    return folder / top / "tests"


def point_at(endpoint: str, tests: Path) -> bool:
    """Make `endpoint` the emulator's address; say whether a line of the tests had to be rewritten for it.

    The tests take an account for the emulator only at the one address that stands in their configuration.
    """
    config = tests / "test_config.py"
    text = config.read_text(encoding="utf-8")
    line = re.search(r"^ +local_host = '(.*)'$", text, re.MULTILINE)
    assert line is not None, f"{config} names no local_host"
    if line[1] == endpoint:
        return False
    config.write_text(text.replace(line[0], line[0].replace(line[1], endpoint)), encoding="utf-8")
    return True
