"""Holds the code to the rules that only a test can hold."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import migrations
from core.postgres.schema import REVISION

ROOT = Path(__file__).parents[2]
PACKAGES = ("core", "outbox", "changefeed", "functions", "migrations")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_LINES = 300


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_and_opens_by_saying_why_it_exists(module: Path) -> None:
    source = module.read_text()
    assert len(source.splitlines()) <= MAX_LINES
    docstring = ast.get_docstring(ast.parse(source))
    assert docstring, "no docstring"
    assert docstring.splitlines()[0].endswith((".", ":")), "the first line is one sentence"


def test_the_code_knows_the_newest_migration() -> None:
    assert migrations.head() == REVISION


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
