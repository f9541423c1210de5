"""Reads the files of exact versions."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def pins(file: str) -> dict[str, set[str]]:
    """Return the hashes by `name==version`."""
    return {
        f"{canonicalize_name(requirement.name)}{requirement.specifier}": hashes for requirement, hashes in pinned(file)
    }


def pinned(file: str) -> list[tuple[Requirement, set[str]]]:
    """Return every line with its marker, and its hashes."""
    text = (ROOT / file).read_text()
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    return [
        (Requirement(block.split("\\\n")[0].strip()), set(re.findall("sha256:[0-9a-f]+", block))) for block in blocks
    ]
