"""Finds every command that the README and the deployment's text give a reader, as they are written there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "deploy/README.md")

PROGRAMS = (
    "az",
    "azd",
    "cd",
    "crossfeed",
    "curl",
    "docker",
    "export",
    "make",
    "openssl",
    "pip",
    "psql",
    "python",
    "sh",
)
"""What a span of code in a sentence begins with where it is a command, and no name or value."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_OPTIONAL = re.compile(r" \[([^\]]*)\]")


@dataclass(frozen=True, slots=True, order=True)
class Command:
    """One command, and the page that gives it."""

    text: str
    page: str


def commands() -> list[Command]:
    """Return the commands of all pages, each once a page, in the order in which a reader meets them."""
    return list(dict.fromkeys(found for page in PAGES for found in of(page, (ROOT / page).read_text())))


def of(page: str, text: str) -> Iterator[Command]:
    """Yield the commands of a page: every line of a `sh` block, and every span of code that begins with a program."""
    for language, code in _BLOCK.findall(text):
        if language == "sh":
            for line in code.replace("\\\n", "").splitlines():
                if command := re.sub(r"\s+# .*$", "", line).strip():
                    yield Command(command, page)
    for line in _paragraphs(_BLOCK.sub("", text)):
        spans = [re.sub(r"\s+", " ", span) for span in _SPAN.findall(line)]
        before = ""
        for span in spans:
            command = span if span.split()[0] in PROGRAMS and " " in span else _continued(before, span, line)
            if command:
                before = command
                for variant in _variants(command):
                    yield Command(variant, page)


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the first cell of a row of a table, and whatever else is no table as it is."""
    prose = []
    for line in text.splitlines():
        if line.startswith("|"):
            yield line
        else:
            prose.append(line)
    yield "\n".join(prose)


def _continued(before: str, span: str, line: str) -> str:
    """Return the whole command where a table says only the verb: `crossfeed phase status`, `plan`, `back`."""
    in_first_cell = line.startswith("|") and f"`{span}`" in line.partition(" | ")[0]
    if not in_first_cell or not before.startswith("crossfeed "):
        return ""
    return span if span.startswith("crossfeed ") else " ".join([*before.split(maxsplit=2)[:2], span])


def _variants(command: str) -> Iterator[str]:
    """Yield a command without what stands in brackets, and with it."""
    without, with_all = _OPTIONAL.sub("", command), _OPTIONAL.sub(r" \1", command)
    yield from dict.fromkeys((without, with_all))
