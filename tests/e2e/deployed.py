"""Reads what deploy/ says: the services of the compose file, and the settings that the templates give to processes."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.e2e.documented import ROOT

BICEP = ROOT / "deploy" / "bicep"


def services() -> dict[str, dict[str, Any]]:
    """Return the services of the compose file."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
    return found


def bicep(module: str) -> str:
    """Return the text of a module, without its comments."""
    return re.sub(r"^\s*//.*$", "", (BICEP / f"{module}.bicep").read_text(), flags=re.MULTILINE)


def app_settings(**known: str) -> dict[str, str]:
    """Return the settings of the Functions app, texts as they are, expressions by their names in `known`, or empty."""
    block = re.search(r"properties: union\(optional, \{\n(.*?)\n  \}\)", bicep("functions"), re.DOTALL)
    assert block is not None
    found = {}
    for line in block[1].splitlines():
        name, _, value = line.strip().partition(": ")
        found[name] = value.strip("'") if value.startswith("'") else known.get(value, value)
    return found
