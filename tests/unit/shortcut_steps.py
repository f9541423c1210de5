"""What the tests of the shortcut share: rows as Postgres gives them, and both ways of making their documents."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from hypothesis import strategies as st

from core.content import content_of, load_exact
from core.cosmos.publish import publish_state
from core.projection import same_json
from core.shortcut import shortcut_of
from core.stamp import Stamp
from tests.unit.strategies import as_postgres, date_texts, values

if TYPE_CHECKING:
    from core.content import Document
    from core.identity import Identity
    from core.mapping import EntityMapping

STAMP = Stamp(2, 3)

moments = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)).map(
    lambda moment: moment.isoformat().removesuffix("+00:00").rjust(10, "0")
)
anything = (
    values
    | moments
    | date_texts()
    | st.sampled_from(
        ["a", "red", 1, 1.5, 2**53, 2**53 + 1, -(2**60), "1e400", "infinity", "0044-03-15T00:00:00 BC", 3.0, -0.0, 1e22]
    )
    | st.sampled_from(
        [{"a": 1}, {"a": 1, "b": 0.5}, {"name": " x "}, {"Leaves": [{"Leaves": [], "x": 1}]}, "x y", [1, "a"]]
    )
)


def both_ways(mapping: EntityMapping[Any], text: str, identity: Identity) -> tuple[Document | None, Document | None]:
    """Make the document of a row by the shortcut and by the mapping; None is a refusal of either."""
    shortcut = shortcut_of(mapping)
    assert shortcut is not None
    quick = shortcut.document(text, identity, STAMP)
    try:
        content = mapping.document_of_row(load_exact(text))
        slow = publish_state(mapping, identity, STAMP, content, taken_etag=None, loaded_in=2).document
    except Exception:  # noqa: BLE001 - as outbox.current_state does
        slow = None
    return quick, slow


def check_same(mapping: EntityMapping[Any], text: str, identity: Identity) -> bool:
    quick, slow = both_ways(mapping, text, identity)
    if quick is not None:
        assert slow is not None, "the mapping refuses what the shortcut makes"
        assert same_json(quick, slow), (quick, slow)
        assert quick["crossfeed"] == slow["crossfeed"]
    return quick is not None


def row_of(mapping: EntityMapping[Any], document: Document) -> dict[str, Any]:
    row = as_postgres(mapping.table, mapping.row(content_of(document)))
    moments = [column.name for column in mapping.table.columns if isinstance(column.type, sa.DateTime)]
    row |= {name: row[name].removesuffix("+00:00") for name in moments if row.get(name)}  # selected in UTC
    return {**dict.fromkeys(mapping.projected_columns), **row}
