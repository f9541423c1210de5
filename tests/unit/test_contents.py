"""Which properties differ between a row's document and the one in Cosmos DB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from core.content import dump
from core.domain.mappings import ACCOUNTS
from core.migration.contents import UNREADABLE, differing_fields
from core.postgres.held import HeldRow
from core.stamp import Stamp

if TYPE_CHECKING:
    from core.content import Document

DOCUMENT: Document = {
    "id": "a",
    "Email": "a@example.org",
    "Legacy": {"kept": [1, 2.0]},
    "_etag": "e",
    "_ts": 1,
}


def fields(document: Document, **row: Any) -> tuple[str, ...]:
    """Compare a document with the row of DOCUMENT, of which some columns are others."""
    columns = {**ACCOUNTS.row(DOCUMENT), **row}
    return differing_fields(ACCOUNTS, HeldRow(Stamp(2, 1), None, None, dump(columns), {}), document)


def test_what_was_taken_is_the_same() -> None:
    assert fields(DOCUMENT) == ()
    assert fields({**DOCUMENT, "Legacy": {"kept": [1.0, 2]}, "crossfeed": {"epoch": 2}, "_etag": "f"}) == ()


@pytest.mark.parametrize(
    ("document", "row", "expected"),
    [
        ({**DOCUMENT, "Email": "b@example.org"}, {}, ("Email",)),
        ({**DOCUMENT, "Legacy": {"kept": [1]}, "New": None}, {}, ("Legacy", "New")),
        ({key: value for key, value in DOCUMENT.items() if key != "Legacy"}, {}, ("Legacy",)),
        (DOCUMENT, {"role": "Admin"}, ("Role",)),
    ],
)
def test_every_property_that_differs_is_named(
    document: Document, row: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert fields(document, **row) == expected


def test_what_the_model_fills_in_by_itself_is_no_difference() -> None:
    """A row that was stored before its document got a property holds the default, and no word that it was left out."""
    for role, expected in (("Guest", ()), ("Admin", ("Role",))):
        row = dump(ACCOUNTS.row({**DOCUMENT, "Role": role}))
        assert differing_fields(ACCOUNTS, HeldRow(Stamp(2, 1), None, None, row, {}), DOCUMENT) == expected


def test_a_row_that_its_model_cannot_read_differs() -> None:
    assert fields(DOCUMENT, user_profile_ids={"no": "list"}) == UNREADABLE
