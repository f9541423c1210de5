"""Virtual environments with the wheel and exactly what the wheel asks for."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: str) -> None:
    """Run a module of this environment.

    Raises:
        AssertionError: it failed; with what it said.

    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def built_wheel(directory: Path) -> Path:
    """Return the wheel of this tree."""
    run("build", "--wheel", "--no-isolation", "--outdir", str(directory), str(ROOT))
    [wheel] = directory.glob("*.whl")
    return wheel


def installed_from_the_index(wheel: Path, extra: str, directory: Path) -> Path:
    """Return the programs of an environment into which pip has installed the wheel, with the lock's versions."""
    python = _empty_environment(directory)
    # The lock's versions, so that the same thing is tested today and tomorrow.
    constraints = directory / "constraints.txt"
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    constraints.write_text("\n".join(line.split()[0] + _marker(line) for line in lines if "==" in line))
    options = ("--quiet", "--no-compile", "--constraint", str(constraints))
    run("pip", "--python", str(python), "install", *options, f"crossfeed[{extra}] @ {wheel.as_uri()}")
    return python.parent


def installed_by_links(wheel: Path, extra: str, directory: Path) -> Path:
    """Return the programs of an environment with the wheel, and links to the packages here that its metadata asks for.

    Those and what they ask for in turn, and nothing else that is installed here: a dependency that is not declared is
    missing. It takes a second, where downloading and unpacking takes most of a minute.
    """
    python = _empty_environment(directory)
    run("pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    [packages] = directory.glob("lib/python*/site-packages")
    [metadata] = packages.glob("crossfeed-*.dist-info")
    for found in _asked_for(Distribution.at(metadata), {extra}, set()):
        _link(found, packages)
    return python.parent


def _empty_environment(directory: Path) -> Path:
    run("venv", "--without-pip", str(directory))
    return directory / "bin" / "python"


def _asked_for(of: Distribution, extras: set[str], seen: set[tuple[str, str]]) -> Iterator[Distribution]:
    """Yield the distributions that one needs here with these extras; one may come more than once."""
    for line in of.requires or ():
        requirement = Requirement(line)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in {*extras, ""}):
            continue
        found = distribution(requirement.name)
        assert requirement.specifier.contains(found.version, prereleases=True), f"{line}: {found.version} is here"
        for extra in {*requirement.extras, ""}:
            key = (canonicalize_name(requirement.name), extra)
            if key not in seen:
                seen.add(key)
                yield found
                yield from _asked_for(found, {extra}, seen)


def _link(found: Distribution, packages: Path) -> None:
    """Link whole packages; of a namespace package only the parts that this distribution brings."""
    here = Path(str(found.locate_file("")))
    for file in found.files or ():
        if ".." in file.parts:
            continue  # a program
        part = next(
            (
                part
                for part in reversed(file.parents[:-1])
                if part.suffix in {".dist-info", ".libs"} or (here / part / "__init__.py").exists()
            ),
            file,
        )
        link = packages / part
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(here / part)


def _marker(line: str) -> str:
    """Return the environment marker of a line of the lock, if it has one."""
    _, semicolon, condition = line.partition(";")
    return f" ; {condition.strip().rstrip(chr(92)).strip()}" if semicolon else ""
