"""Writes both stores' final documents to files that `diff -r` compares."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import rfc8785

from core.envelope import Origin
from functions.demo.states import in_cosmos, in_postgres

if TYPE_CHECKING:
    from pathlib import Path

    from core.content import Document
    from functions.demo.states import States
    from functions.demo.stores import Stores

_MAX_EXACT = 2**53


async def export(stores: Stores, directory: Path) -> None:
    """Write DIR/postgres/<container>.json and DIR/cosmos/<container>.json.

    Each is a JSON array of the live documents' content, one to a line, in the order of partition key and id, in the
    canonical spelling of RFC 8785: equal documents are equal bytes.

    Raises:
        OSError: a file cannot be written.

    """
    for mapping in stores.mappings:
        for store, states in (
            (Origin.POSTGRES, await in_postgres(stores, mapping)),
            (Origin.COSMOS, await in_cosmos(stores, mapping)),
        ):
            file = directory / store.value / f"{mapping.container}.json"
            await asyncio.to_thread(_write, file, states)


def _write(file: Path, states: States) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        _line(states[identity].content or {}) for identity in sorted(states) if states[identity].content is not None
    ]
    file.write_bytes(b"[\n" + b",\n".join(lines) + b"\n]\n")


def _line(content: Document) -> bytes:
    return rfc8785.dumps(json.loads(json.dumps(content), parse_int=_as_json_reader))


def _as_json_reader(digits: str) -> int | float:
    """Read an integer as every JSON reader does: beyond 2^53 it is a double."""
    value = int(digits)
    return value if -_MAX_EXACT < value < _MAX_EXACT else float(value)
