"""What is declared, what is locked and what is packed agree with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).parents[2]
_PACKAGES = {"core", "outbox", "changefeed", "functions", "migrations"}
_PYTHONS = ("3.11.0", "3.12.0", "3.13.0")
_PLATFORMS = ("linux", "darwin")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((_ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def locked() -> list[Requirement]:
    text = (_ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    return [Requirement(line.split("--hash")[0].strip()) for line in lines if line]


def _declared(project: dict[str, Any]) -> Iterator[Requirement]:
    groups = [
        project["build-system"]["requires"],
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
        *project["dependency-groups"].values(),
    ]
    for line in (line for group in groups for line in group):
        requirement = Requirement(line)
        if requirement.name != project["project"]["name"]:
            yield requirement


def _applies(requirement: Requirement, python: str, platform: str) -> bool:
    environment = {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "sys_platform": platform,
        "os_name": "posix",
    }
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.mark.parametrize("python", _PYTHONS)
@pytest.mark.parametrize("platform", _PLATFORMS)
def test_every_declared_dependency_is_locked_at_a_version_that_satisfies_it(
    project: dict[str, Any], locked: list[Requirement], python: str, platform: str
) -> None:
    versions: dict[str, Version] = {}
    for requirement in locked:
        if _applies(requirement, python, platform):
            (pin,) = requirement.specifier
            name = canonicalize_name(requirement.name)
            assert pin.operator == "==", requirement
            assert name not in versions, f"{name} is locked twice for Python {python}"
            versions[name] = Version(pin.version)
    for requirement in _declared(project):
        if _applies(requirement, python, platform):
            version = versions.get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement} is not locked: run `make lock`"
            assert version in requirement.specifier, f"{version} is not {requirement}: run `make lock`"


def test_azure_functions_is_of_the_line_that_the_python_can_run(locked: list[Requirement]) -> None:
    for python, major in (("3.11.0", 1), ("3.12.0", 1), ("3.13.0", 2)):
        (found,) = (r for r in locked if r.name == "azure-functions" and _applies(r, python, "linux"))
        assert Version(next(iter(found.specifier)).version).major == major


def test_the_lock_pins_by_hash_and_names_no_place(locked: list[Requirement]) -> None:
    text = (_ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?:|file:|^-|@ ", text, re.MULTILINE)
    pins = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(pins) == len(locked)
    assert [pin for pin in pins if "--hash=sha256:" not in pin] == []


def test_the_wheel_packs_exactly_the_import_packages(tmp_path: Path) -> None:
    # Built from a copy: whatever else lies in the checkout must not be packed, and nothing is left in it.
    source = tmp_path / "source"
    for name in _PACKAGES:
        shutil.copytree(_ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "function_app.py", "host.json"):
        shutil.copy(_ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(source)]
    done = subprocess.run(build, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "dist").glob("*.tar.gz"))) == 1
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == _PACKAGES
    assert {f"{package}/py.typed" for package in _PACKAGES} <= set(names)
    # Everything of ours, with the files that are not Python, is in it.
    ours = {
        path.relative_to(source).as_posix()
        for name in _PACKAGES
        for path in (source / name).rglob("*")
        if path.is_file()
    }
    assert ours <= set(names)
