"""The shortcut makes the documents that the mapping makes of a row, to the letter, or none at all."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain.account import Account
from core.domain.mappings import ACCOUNTS, MAPPINGS
from core.domain.samples import sample_documents
from core.identity import Identity
from core.instant import Instant, check_text, spell, spell_utc
from tests.unit.shortcut_steps import anything, both_ways, check_same, moments, row_of
from tests.unit.strategies import date_texts, names, texts

DOCUMENTS = sample_documents(200, seed=7)
SAMPLES = {mapping.container: (mapping, DOCUMENTS[mapping.container][:60]) for mapping in MAPPINGS}


@pytest.mark.parametrize("container", SAMPLES)
def test_ordinary_rows_take_the_shortcut_and_give_the_same_documents(container: str) -> None:
    mapping, documents = SAMPLES[container]
    taken = [
        check_same(mapping, json.dumps(row_of(mapping, document)), mapping.identity(document)) for document in documents
    ]
    assert sum(taken) > len(taken) * 0.6


@pytest.mark.parametrize("container", SAMPLES)
@given(data=st.data())
@settings(max_examples=30)
def test_whatever_raw_sql_put_into_a_row_both_ways_agree(container: str, data: st.DataObject) -> None:
    mapping, documents = SAMPLES[container]
    document = data.draw(st.sampled_from(documents))
    row = row_of(mapping, document)
    for _ in range(data.draw(st.integers(0, 2))):
        _spoil(row, data)
    check_same(mapping, json.dumps(row), mapping.identity(document))


def _spoil(row: dict[str, Any], data: st.DataObject) -> None:
    """Put something else in one place of a row, at any depth."""
    place: Any = row
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys) if keys else st.none())
        if key is None or not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            break
        place[key] = copy.deepcopy(place[key])
        place = place[key]
    if isinstance(place, dict) and place is not row and data.draw(st.booleans()):
        place[data.draw(names | st.sampled_from(["Id", "_etag", "crossfeed", "type", "id"]))] = data.draw(anything)
    elif key is not None:
        place[key] = data.draw(anything)


@pytest.mark.parametrize(
    "id_", ["a b", "ä", "a/b", "crossfeed-x", "x" * 300, "x" * 1100, "", "a\\b", 'a"b', "..", "a "]
)
def test_ids_are_judged_the_same_both_ways(id_: str) -> None:
    row = {**SAMPLE_ROW, "id": id_}
    check_same(ACCOUNTS, json.dumps(row), Identity.of("Account", [id_], id_))


SAMPLE_ROW = row_of(ACCOUNTS, {"id": "a", "Email": "a@example.com"})


@pytest.mark.parametrize(
    ("key", "id_"),
    [('["b"]', "a"), ('["a"]', "b"), ('["a","b"]', "a"), ("[1]", "a"), ('["\\u0061"]', "a"), ("null", "a")],
)
def test_the_document_of_another_identity_is_never_made(key: str, id_: str) -> None:
    text = json.dumps(SAMPLE_ROW)
    assert both_ways(ACCOUNTS, text, Identity("Account", '["a"]', "a"))[0] is not None
    assert both_ways(ACCOUNTS, text, Identity("Account", key, id_))[0] is None


WHOLE = row_of(ACCOUNTS, ACCOUNTS.document(Account(id="a")))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("subscription", {"IsActive": 1}),
        ("subscription", {"IsActive": None}),
        ("subscription", {"Type": 1}),
        ("subscription", {"Type": []}),
        ("subscription", {"StartDate": "0001-01-01T00:00:00+14:00"}),
        ("subscription", {"StartDate": "2026-01-31T08:00:00+02:00"}),
        ("subscription", {"StartDate": "2026-02-30T08:00:00.0000000Z"}),
        ("subscription", {"PurchasedScenarios": ["a", 1]}),
        ("settings", {"unknown": 2**60}),
        ("settings", {"unknown": 1.0}),
        ("settings", {"unknown": "text"}),
    ],
)
def test_what_is_odd_in_one_place_of_a_part_is_seen(column: str, value: dict[str, Any]) -> None:
    assert check_same(ACCOUNTS, json.dumps(WHOLE), Identity.of("Account", ["a"], "a"))
    row = {**WHOLE, column: {**WHOLE[column], **value}}
    check_same(ACCOUNTS, json.dumps(row), Identity.of("Account", ["a"], "a"))


@pytest.mark.parametrize("count", [2**53 - 1, 2**53 + 1, 2**60 + 1, -(2**53) - 1, True, "1"])
def test_a_count_that_no_double_holds_is_seen(count: Any) -> None:
    mapping, [document, *_] = SAMPLES["PendingSignups"]
    row = {**row_of(mapping, document), "failed_attempts": count}
    check_same(mapping, json.dumps(row), mapping.identity(document))


@given(moments)
def test_a_time_that_postgres_spelled_is_spelled_as_the_projection_does(text: str) -> None:
    for spelled in {text, text.rstrip("0") if "." in text else text}:
        assert spell_utc(spelled) == spell(Instant.parse(spelled))


@given(date_texts() | moments | texts | st.from_regex(r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z\Z"))
def test_a_text_is_a_point_in_time_for_the_quick_look_exactly_if_it_is_one(text: str) -> None:
    def reads(read: Any) -> bool:
        try:
            read(text)
        except ValueError:
            return False
        return True

    assert reads(check_text) == reads(Instant.parse)
