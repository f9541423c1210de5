"""Types that share a container: which document is whose, and which mappings cannot share."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from core.discriminator import Discriminator
from core.errors import DocumentRefusedError, MappingError
from core.identity import Identity
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.shortcut import shortcut_of
from core.stamp import Stamp
from tests.integration.library_steps import BOOKS, BOTH, FILMS, LIBRARY, Book, Film


@pytest.mark.parametrize(
    ("names", "owner"),
    [
        ({"Discriminator": "Book"}, "Book"),
        ({"$type": "Library.Book, Library"}, "Book"),
        ({"Discriminator": "Unknown", "$type": "Film"}, "Film"),
        ({"Discriminator": "Film", "$type": "Book"}, "Film"),
        ({"Discriminator": "Book", "$type": "Film"}, "Book"),
        ({"Discriminator": ["Book"], "$type": None}, None),
        ({"Discriminator": "book"}, None),
        ({"discriminator": "Book"}, None),
        ({}, None),
    ],
)
def test_a_document_belongs_to_the_type_that_its_properties_name(names: dict[str, Any], owner: str | None) -> None:
    found = LIBRARY.mapping_of("Library", {"id": "x", "Shelf": "s", **names})
    assert (found.name if found else None) == owner


def test_a_mapping_without_a_discriminator_takes_everything() -> None:
    alone = EntityMapping(Book, table=BOOKS.table, container="Books", partition_key="/Shelf")
    mappings = Mappings([alone, FILMS])
    assert mappings.mapping_of("Books", {"Discriminator": "Film"}) is alone
    assert mappings.containers == ("Books", "Library")
    assert LIBRARY.containers == ("Library",)
    assert LIBRARY.in_container("Library") == (BOOKS, FILMS)
    assert LIBRARY.rivals(FILMS) == ("Book", "Library.Book, Library")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"discriminator": None}, "Film has no discriminator"),
        ({"partition_key": "/id", "key_columns": ("id",)}, "partition key: /Shelf and /id"),
        ({"discriminator": Discriminator(BOTH, ("Film", "Book"))}, "both claim the type 'Book'"),
        ({"discriminator": Discriminator(("$type", "Discriminator"), ("Film",))}, "in another order"),
        ({"unique_keys": ("/Title",)}, "unique keys"),
    ],
)
def test_types_that_cannot_share_a_container_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    table = FILMS.table.to_metadata(sa.MetaData())
    table.append_constraint(sa.UniqueConstraint("id"))
    arguments: dict[str, Any] = {
        "table": table, "container": "Library", "partition_key": "/Shelf", "discriminator": FILMS.discriminator,
    }  # fmt: skip
    Mappings([BOOKS, EntityMapping(Film, **arguments)])
    with pytest.raises(MappingError, match="Book and Film") as refused:
        Mappings([BOOKS, EntityMapping(Film, **{**arguments, **change})])
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("properties", "values", "named"),
    [
        ((), ("a",), "properties"),
        (("$type",), ("",), "values"),
        ("$type", ("a",), "properties"),
        (("id",), ("a",), "id"),
    ],
)
def test_a_discriminator_that_says_nothing_is_refused(properties: Any, values: Any, named: str) -> None:
    with pytest.raises(MappingError, match=named):
        Discriminator(properties, values)


def test_what_has_no_type_gets_it_and_what_has_another_is_refused() -> None:
    assert BOOKS.document(Book(id="b", shelf="s"))["Discriminator"] == "Book"
    old = Book.model_validate({"id": "b", "Shelf": "s", "$type": "Library.Book, Library"})
    assert "Discriminator" not in BOOKS.document(old)
    assert BOOKS.tombstone_content(Identity.of("Book", ["s"], "b"), 60)["Discriminator"] == "Book"
    assert "Discriminator" not in BOOKS.placeholder(Identity.of("Book", ["s"], "b"), 60)
    for other in ("Film", "Unknown", 7):
        with pytest.raises(DocumentRefusedError, match="another type"):
            BOOKS.document(Book.model_validate({"id": "b", "Shelf": "s", "Discriminator": other}))


@pytest.mark.parametrize("rest", ["null", '{"$type": "Book"}', '{"Discriminator": "Film"}', '{"Discriminator": ""}'])
def test_the_quick_way_names_the_type_as_the_mapping_does(rest: str) -> None:
    shortcut = shortcut_of(BOOKS)
    assert shortcut is not None
    row = f'{{"shelf": "s", "id": "b", "title": "t", "crossfeed_extra": {rest}, "crossfeed_spelling": null}}'
    made = shortcut.document(row, Identity.of("Book", ["s"], "b"), Stamp(1, 1))
    try:
        expected = BOOKS.document_of_row(json.loads(row))
    except DocumentRefusedError:
        assert made is None
    else:
        assert made is not None
        assert {name: value for name, value in made.items() if name != "crossfeed"} == expected
