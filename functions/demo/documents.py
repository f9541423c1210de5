"""Reads a user's own exported documents, and names everything that one of the stores could not hold, by its index."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from core.content import content_of, load_exact
from core.entity import Entity
from core.errors import ConfigurationError, CrossfeedError, DocumentRefusedError
from core.mapping import EntityMapping
from core.mappings import Mappings

if TYPE_CHECKING:
    from pathlib import Path

    from core.content import Document
    from core.identity import Identity

MAX_SHOWN = 20
SHORTEST_TTL_S = 600
"""Documents that expire by themselves while the demo runs would be missing for a reason that is none."""


class Exported(Entity):
    """A document of which nothing is known but its id."""


class _Digits(str):
    """A number as the file spells it."""

    __slots__ = ()


def generic_mapping(container: str, partition_key: str) -> tuple[Mappings, sa.MetaData]:
    """Return the mapping of any document of a container, and its table: the key, the id and a JSONB body.

    Args:
        container: the container's name.
        partition_key: its path, `/tenant` or `/address/city`.

    Raises:
        MappingError: the path is none.

    """
    metadata = sa.MetaData()
    table = sa.Table(
        "documents",
        metadata,
        sa.Column("partition_key", JSONB, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("body", JSONB, nullable=False, server_default=sa.text("'{}'")),
    )
    mapping = EntityMapping(
        Exported,
        table=table,
        container=container,
        partition_key=partition_key,
        key_columns=("partition_key",),
        body="body",
    )
    return Mappings([mapping]), metadata


def read_documents(file: Path, mapping: EntityMapping[Any]) -> list[Document]:
    """Read a JSON array of documents, without their system properties.

    Raises:
        ConfigurationError: the file is no such array, or documents cannot live in both stores; the message names each
            by its index (from 0), up to twenty of them.

    """
    items = _parse(file)
    documents: list[Document] = []
    problems: list[str] = []
    indexes: dict[Identity, int] = {}
    for index, item in enumerate(items):
        try:
            document = _document(item)
            mapping.check(document)
            identity = mapping.identity(document)
            _check_demo(document, identity)
            first = indexes.setdefault(identity, index)
            if first != index:
                _refuse(f"has the same partition key and id as document {first}")
        except CrossfeedError as error:
            problems.append(f"document {index}: {error}")
        else:
            documents.append(document)
    if problems:
        more = [f"and {len(problems) - MAX_SHOWN} more"] if len(problems) > MAX_SHOWN else []
        raise ConfigurationError(f"{file}: " + "; ".join(problems[:MAX_SHOWN] + more))
    if not documents:
        msg = f"{file}: the array is empty"
        raise ConfigurationError(msg)
    return documents


def _parse(file: Path) -> list[Any]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 (byte {error.start})"
        msg = f"{file}: {reason}"
        raise ConfigurationError(msg) from error
    try:
        # Numbers stay digits until each can be blamed on its document.
        items = json.loads(text, parse_float=_Digits, parse_int=_Digits, parse_constant=_Digits)
    except json.JSONDecodeError as error:
        msg = f"{file}: not JSON: {error}"
        raise ConfigurationError(msg) from error
    except RecursionError as error:
        msg = f"{file}: objects and arrays inside each other, too deep for any document"
        raise ConfigurationError(msg) from error
    if not isinstance(items, list):
        msg = f"{file}: not a JSON array of documents"
        raise ConfigurationError(msg)
    return items


def _document(item: Any) -> Document:  # noqa: ANN401 - any JSON value
    if not isinstance(item, dict):
        _refuse("is not a JSON object")
    if "id" not in item:
        _refuse("has no id")
    return {key: _exact(value, f"$.{key}") for key, value in content_of(item).items()}


def _exact(value: Any, path: str) -> Any:  # noqa: ANN401 - any JSON value
    match value:
        case _Digits():
            try:
                return load_exact(str(value))
            except DocumentRefusedError:
                _refuse(f"cannot be stored in both stores: at {path}: a number that a JSON double cannot hold exactly")
        case dict():
            return {key: _exact(item, f"{path}.{key}") for key, item in value.items()}
        case list():
            return [_exact(item, f"{path}[{index}]") for index, item in enumerate(value)]
        case _:
            return value


def _check_demo(document: Document, identity: Identity) -> None:
    if identity.parts == [None]:
        _refuse("has a partition key of null, which the demo's table cannot have as a key")
    ttl = document.get("ttl")
    if ttl is not None and ttl != -1 and not (isinstance(ttl, int) and ttl >= SHORTEST_TTL_S):
        _refuse(f"has ttl {ttl!r}: it would expire while it is carried (less than {SHORTEST_TTL_S} s), or is refused")


def _refuse(why: str) -> NoReturn:
    raise DocumentRefusedError(why)
