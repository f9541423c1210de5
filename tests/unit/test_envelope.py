"""Envelopes: only one that verifies makes a document ours, and no envelope of whatever shape does any harm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core.content import ENVELOPE, content_of
from core.envelope import (
    FOREIGN,
    Foreign,
    Internal,
    Origin,
    Ours,
    author_of,
    claimed_version,
    internal_document,
    is_deleted,
    is_internal,
    stamped,
)
from core.errors import DocumentRefusedError
from core.projection import same_json
from core.stamp import Stamp
from tests.unit.strategies import as_cosmos, as_jsonb, contents, names, values

if TYPE_CHECKING:
    from core.content import Document

stamps = st.builds(Stamp, st.integers(0, 2**50), st.integers(0, 2**50))
origins = st.sampled_from(Origin)


@given(contents, stamps, origins, st.booleans())
def test_what_we_stamped_is_ours_in_either_store(
    content: Document, stamp: Stamp, origin: Origin, deleted: bool
) -> None:
    document = stamped(content, stamp, origin, deleted=deleted)
    assert content_of(document) == content
    for stored in (document, as_cosmos(document), as_jsonb(document), {**document, "_etag": "x", "_ts": 1, "_lsn": 2}):
        assert author_of(stored) == Ours(stamp, origin, deleted)
        assert claimed_version(stored) == stamp.version
        assert is_deleted(stored) is deleted
        assert not is_internal(stored)


@given(contents, stamps, names, values)
def test_a_document_that_somebody_else_changed_is_foreign(
    content: Document, stamp: Stamp, name: str, value: Any
) -> None:
    assume(not (name in content and same_json(content[name], value)))
    document = stamped(content, stamp, Origin.COSMOS)
    document[name] = value
    assert author_of(document) == FOREIGN
    assert claimed_version(document) == stamp.version  # not trusted, but to be exceeded


@given(contents, stamps)
def test_stamping_again_replaces_the_envelope(content: Document, stamp: Stamp) -> None:
    again = stamped(stamped(content, Stamp(1, 1), Origin.COSMOS, deleted=True), stamp, Origin.POSTGRES)
    assert author_of(again) == Ours(stamp, Origin.POSTGRES, deleted=False)


envelopes = st.one_of(
    values,
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("epoch", "version", "hash", "origin", "deleted", "kind", "events"), values)
    ),
)


@given(contents, envelopes)
def test_no_envelope_makes_a_reader_raise_and_none_is_believed_unverified(content: Document, envelope: Any) -> None:
    document = {**content, ENVELOPE: envelope}
    assert isinstance(author_of(document), Foreign | Internal)
    assert claimed_version(document) >= 0
    is_deleted(document)
    is_internal(document)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epoch", -1),
        ("epoch", True),
        ("epoch", 1.5),
        ("epoch", None),
        ("version", "1"),
        ("version", -1),
        ("version", 2**53),
        ("version", 10**30),
        ("origin", "mongodb"),
        ("origin", ["postgres"]),
        ("origin", {"postgres": 1}),
        ("hash", None),
        ("hash", "1:0"),
        ("hash", ["1:0"]),
    ],
)
def test_one_wrong_property_of_an_envelope_makes_the_document_foreign(name: str, value: Any) -> None:
    document = stamped({"id": "a", "Name": "Ann"}, Stamp(1, 1), Origin.POSTGRES)
    assert author_of(document) != FOREIGN
    document[ENVELOPE][name] = value
    assert author_of(document) == FOREIGN
    del document[ENVELOPE][name]
    assert author_of(document) == FOREIGN


@pytest.mark.parametrize("version", [-1, True, 1.0, "7", None, [], 10**30])
def test_a_version_that_is_no_count_claims_nothing(version: Any) -> None:
    assert claimed_version({"id": "a", ENVELOPE: {"version": version}}) == 0


@pytest.mark.parametrize("value", [False, None, 0, 1, "true", {}])
def test_nothing_but_true_makes_a_tombstone(value: Any) -> None:
    document = stamped({"id": "a"}, Stamp(1, 1), Origin.POSTGRES)
    document[ENVELOPE]["deleted"] = value
    assert author_of(document) == Ours(Stamp(1, 1), Origin.POSTGRES, deleted=False)
    assert not is_deleted(document)


def test_a_document_without_an_envelope_is_foreign() -> None:
    assert author_of({"id": "a"}) == FOREIGN
    assert claimed_version({"id": "a"}) == 0


def test_a_document_that_has_no_canonical_form_is_foreign() -> None:
    document = stamped({"id": "a"}, Stamp(1, 1), Origin.POSTGRES)
    for value in (2**53 + 1, float("nan"), "\ud800"):
        assert author_of({**document, "x": value}) == FOREIGN


def test_our_own_documents_are_internal_and_never_entities() -> None:
    watermark = internal_document("watermark", 3, {"id": "crossfeed-1", "ttl": 60})
    assert author_of(watermark) == Internal("watermark", 3)
    assert is_internal(watermark)
    assert not is_deleted(watermark)


def test_content_without_a_canonical_form_is_never_stamped() -> None:
    with pytest.raises(DocumentRefusedError):
        stamped({"id": "a", "n": 2**53 + 1}, Stamp(1, 1), Origin.POSTGRES)


def test_epochs_count_before_versions() -> None:
    assert Stamp(1, 99) < Stamp(2, 1) < Stamp(2, 2)
