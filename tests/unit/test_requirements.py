"""What Azure installs for the Functions app is what pyproject.toml asks for, as requirements.lock has it."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.locked import ROOT, pinned, pins

if TYPE_CHECKING:
    from collections.abc import Iterator


def _declared() -> Iterator[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    yield from map(Requirement, [*project["dependencies"], *extras["functions"], *extras["cache"]])


def _needed(requirements: list[Requirement]) -> set[str]:
    """Return the names of everything that these need on this Python, and of what that needs in turn."""
    found: dict[tuple[str, str], None] = {}
    waiting = [(item, extra) for item in requirements for extra in ("", *item.extras)]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in found:
            continue
        found[name, extra] = None
        for item in map(Requirement, importlib.metadata.requires(name) or []):
            if item.marker is None or item.marker.evaluate({"extra": extra}):
                waiting += [(item, further) for further in ("", *item.extras)]
    return {name for name, _ in found}


def test_the_requirements_are_those_of_the_lock_to_the_hash_and_name_no_place() -> None:
    text = (ROOT / "requirements.txt").read_text()
    assert not re.search(r"https?:|file:|^-|@ ", text, re.MULTILINE)
    assert text.splitlines()[0].startswith("# What the Functions app holds")
    locked = pins("requirements.lock")
    for pin, hashes in pins("requirements.txt").items():
        assert hashes, pin
        assert hashes == locked.get(pin), f"{pin} is not the one of requirements.lock: run `make requirements.txt`"


def test_the_requirements_are_what_the_app_needs_on_this_python_and_no_more() -> None:
    here = [item for item in _declared() if item.marker is None or item.marker.evaluate()]
    listed = {
        canonicalize_name(item.name)
        for item, _ in pinned("requirements.txt")
        if item.marker is None or item.marker.evaluate()
    }
    assert listed >= _needed(here), "run `make requirements.txt`"
    # What only another Python needs is listed without a marker where it does no harm here.
    assert listed - _needed(here) <= {"werkzeug", "markupsafe"}, "run `make requirements.txt`"


@pytest.mark.parametrize(("python", "major"), [("3.11", "1"), ("3.12", "1"), ("3.13", "2")])
def test_every_python_gets_the_azure_functions_that_it_can_run(python: str, major: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    [found] = [
        item
        for item, _ in pinned("requirements.txt")
        if item.name == "azure-functions" and item.marker is not None and item.marker.evaluate(environment)
    ]
    assert str(found.specifier).startswith(f"=={major}.")
