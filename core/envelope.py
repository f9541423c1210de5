"""Our one property of a document: its stamp, who wrote it, and whether that can be believed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeGuard

from core.content import ENVELOPE, Document, canonical_hash, content_hash, content_of
from core.errors import DocumentRefusedError
from core.stamp import Stamp
from core.tracing import is_traceparent


class Origin(StrEnum):
    """Which store was primary when the document was written."""

    POSTGRES = "postgres"
    COSMOS = "cosmos"


@dataclass(frozen=True, slots=True)
class Ours:
    """A document written by Crossfeed and not touched since: the hash verifies, so the stamp may be trusted."""

    stamp: Stamp
    origin: Origin
    deleted: bool


@dataclass(frozen=True, slots=True)
class Foreign:
    """A document written by somebody else: no envelope, a malformed one, or content that is not what was hashed."""


@dataclass(frozen=True, slots=True)
class Internal:
    """One of Crossfeed's own documents (a watermark, a canary); never an entity."""

    kind: str
    epoch: int


Author = Ours | Foreign | Internal
FOREIGN: Final = Foreign()
_TRACE: Final = "traceparent"
_ORIGINS: Final = {origin.value: origin for origin in Origin}
_MAX_COUNT = 2**53
"""Epochs and versions stay below: a JSON double counts no further, and a Postgres bigint must have room to go on."""


def author_of(document: Document, canonical: bytes | None = None) -> Author:
    """Say who wrote a document, recomputing its hash; never trusts an envelope that does not verify.

    Args:
        document: with its system properties or without.
        canonical: its content's canonical form (`core.content.spelled`), where it is known.

    """
    envelope = document.get(ENVELOPE)
    if not isinstance(envelope, dict) or not _is_count(epoch := envelope.get("epoch")):
        return FOREIGN
    kind = envelope.get("kind")
    if isinstance(kind, str) and kind:
        return Internal(kind, epoch)
    version, origin = envelope.get("version"), envelope.get("origin")
    if not _is_count(version) or not isinstance(origin, str) or origin not in _ORIGINS:
        return FOREIGN
    try:
        digest = content_hash(document) if canonical is None else canonical_hash(canonical)
    except DocumentRefusedError:
        return FOREIGN
    if envelope.get("hash") != digest:
        return FOREIGN
    return Ours(Stamp(epoch, version), _ORIGINS[origin], deleted=envelope.get("deleted") is True)


def _is_count(value: Any) -> TypeGuard[int]:  # noqa: ANN401 - any JSON value
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_COUNT


def claimed_version(document: Document) -> int:
    """Return the version that a document claims, verified or not, else 0: what its next writer must exceed."""
    envelope = document.get(ENVELOPE)
    version = envelope.get("version") if isinstance(envelope, dict) else None
    return version if _is_count(version) else 0


def is_deleted(document: Document) -> bool:
    """Whether a document is a tombstone by its own word (readers must not show it)."""
    envelope = document.get(ENVELOPE)
    return isinstance(envelope, dict) and envelope.get("deleted") is True


def is_internal(document: Document) -> bool:
    """Whether a document is one of Crossfeed's own (readers must not show it)."""
    envelope = document.get(ENVELOPE)
    return isinstance(envelope, dict) and bool(envelope.get("kind"))


def is_same_state(found: Document, ours: Document) -> bool:
    """Compare two documents of one stamp; how long a tombstone lives is a setting, and may have been another once."""
    if is_deleted(found) and is_deleted(ours):
        return content_hash({**found, "ttl": None}) == content_hash({**ours, "ttl": None})
    return is_deleted(found) == is_deleted(ours) and bool(found[ENVELOPE]["hash"] == ours[ENVELOPE]["hash"])


def stamped(content: Document, stamp: Stamp, origin: Origin, *, deleted: bool = False) -> Document:
    """Return the document to store: the content plus our property.

    Raises:
        DocumentRefusedError: the content has no canonical form.

    """
    return sealed(content_of(content), stamp, origin, content_hash(content), deleted=deleted)


def sealed(document: Document, stamp: Stamp, origin: Origin, digest: str, *, deleted: bool = False) -> Document:
    """Put our property into a document of content alone, whose hash is known; return it."""
    envelope: dict[str, Any] = {
        "epoch": stamp.epoch,
        "version": stamp.version,
        "hash": digest,
        "origin": origin.value,
    }
    if deleted:
        envelope["deleted"] = True
    document[ENVELOPE] = envelope
    return document


def put_trace(document: Document, traceparent: str | None) -> None:
    """Name the trace of a write in its stamped document, whose hash does not cover it; nothing where there is none."""
    if is_traceparent(traceparent):
        document[ENVELOPE][_TRACE] = traceparent


def trace_of(document: Document) -> str | None:
    """Return the trace that a document names, whoever wrote that, as a traceparent; None where it names none."""
    envelope = document.get(ENVELOPE)
    found = envelope.get(_TRACE) if isinstance(envelope, dict) else None
    return found if is_traceparent(found) else None


def internal_document(kind: str, epoch: int, content: Document) -> Document:
    """Return one of Crossfeed's own documents (watermark, canary) of this epoch."""
    return {**content, ENVELOPE: {"kind": kind, "epoch": epoch}}
