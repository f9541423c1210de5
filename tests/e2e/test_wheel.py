"""The wheel is all that a user needs: in an empty environment the README's commands run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e import quickstart
from tests.e2e.environments import built_wheel, installed_by_links, installed_from_the_index

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "installed",
    [installed_by_links, pytest.param(installed_from_the_index, marks=pytest.mark.chaos)],
)
def test_the_wheel_runs_the_readme_in_an_empty_environment(
    tmp_path: Path, installed: Callable[[Path, str, Path], Path]
) -> None:
    programs = installed(built_wheel(tmp_path), "local", tmp_path / "venv")
    work = tmp_path / "work"
    work.mkdir()
    ada = quickstart.follow(programs, work)
    assert (ada["id"], ada["name"]) == ("c1", "Ada Lovelace")
    envelope = ada["crossfeed"]
    assert (envelope["epoch"], envelope["version"], envelope["origin"]) == (2, 2, "postgres")
