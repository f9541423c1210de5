"""The container's recipe: pinned, without root, without build tools, and of nothing but what the lock names."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.locked import pins

_ROOT = Path(__file__).parents[2]
_STAGES = re.split(r"^(?=FROM )", (_ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
_PYTHON = {"python_version": "3.13", "sys_platform": "linux", "platform_python_implementation": "CPython"}


def test_the_base_is_pinned_and_the_same_in_every_stage() -> None:
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+$", _STAGES[0], re.MULTILINE)
    assert [stage.split()[1] for stage in _STAGES[1:]] == ["${PYTHON_IMAGE}"] * 2


def test_the_last_stage_installs_nothing_and_runs_without_root() -> None:
    last = _STAGES[-1]
    assert "RUN" not in last.split()
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["crossfeed"\]$', last, re.MULTILINE), (
        "the relay gets SIGTERM itself, no shell does"
    )


def test_whatever_is_copied_is_there_and_not_ignored() -> None:
    ignored = (_ROOT / ".dockerignore").read_text().split()
    for line in re.findall(r"^COPY (?!--from)(.*)$", "".join(_STAGES), re.MULTILINE):
        for source in line.split()[:-1]:
            assert (_ROOT / source).exists(), source
            assert f"!{source}" in ignored, source


def test_what_is_installed_is_what_the_lock_names_to_the_hash() -> None:
    locked, image = pins("requirements.lock"), pins(".ci/image.lock")
    assert len(image) > 40
    for pin, hashes in image.items():
        assert hashes, pin
        assert hashes <= locked[pin], f"{pin} is not the one of requirements.lock: run `make lock`"


@pytest.mark.parametrize("group", ["dependencies", "http"])
def test_everything_that_a_relay_needs_is_installed(group: str) -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] if group == "dependencies" else project["optional-dependencies"][group]
    installed = {pin.split("==")[0] for pin in pins(".ci/image.lock")}
    for requirement in map(Requirement, wanted):
        if requirement.marker is None or requirement.marker.evaluate(_PYTHON):
            assert canonicalize_name(requirement.name) in installed, f"{requirement}: run `make lock`"
