"""Identities: one spelling for equal keys, ids never reshaped, and refused where one of the stores would."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DocumentRefusedError
from core.identity import Identity, KeyPart, check_id, key_text
from tests.unit.strategies import numbers, texts


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (["acc-1"], '["acc-1"]'),
        (['a"b\\c', "é"], '["a\\"b\\\\c","é"]'),
        ([None, True, False], "[null,true,false]"),
        ([1, 1.0, 1e0, -0.0, 0], "[1,1,1,0,0]"),
        ([1.50, 1e15, 1e-7], "[1.5,1000000000000000,0.0000001]"),
        ([10, 100.0, 1200], "[10,100,1200]"),
        ([2**53, -(2.0**53)], "[9007199254740992,-9007199254740992]"),
        ([], "[]"),
    ],
)
def test_a_partition_key_has_one_spelling(parts: list[KeyPart], text: str) -> None:
    assert key_text(parts) == text


key_numbers = numbers.filter(lambda number: abs(number) <= 2**53)
key_parts = st.one_of(st.none(), st.booleans(), texts, key_numbers)


@given(st.lists(key_parts, max_size=3))
def test_the_levels_come_back_from_the_spelling(parts: list[KeyPart]) -> None:
    identity = Identity.of("T", parts, "a")
    assert identity.parts == parts
    assert [type(part) is bool for part in identity.parts] == [type(part) is bool for part in parts]


@given(key_numbers)
def test_equal_numbers_are_the_same_key(number: float) -> None:
    spellings = {number, float(number), *([int(number)] if float(number).is_integer() else [])}
    assert len({key_text([spelling]) for spelling in spellings if spelling == number}) == 1


@given(key_numbers, key_numbers)
def test_different_numbers_are_different_keys(one: float, other: float) -> None:
    assert (key_text([one]) == key_text([other])) == (one == other)


def test_true_and_one_and_the_texts_of_both_are_four_keys() -> None:
    assert len({key_text([part]) for part in (True, 1, "1", "true")}) == 4


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), 2**53 + 1, -1e300, 10**400])
def test_a_number_that_is_none_or_has_several_spellings_is_no_key(number: float) -> None:
    with pytest.raises(DocumentRefusedError):
        key_text([number])


@pytest.mark.parametrize(
    "id_",
    [
        "acc-1",
        "7f9c24e8-3b12-4fef-91e0-56a2d0b7c0de",
        "7f9c24e83b124fef91e056a2d0b7c0de",
        "7F9C24E8-3B12-4FEF-91E0-56A2D0B7C0DE",
        " padded",
        "…🐉",
        "a" * 1023,
    ],
)
def test_an_id_is_returned_as_it_is(id_: str) -> None:
    assert check_id(id_) is id_


@pytest.mark.parametrize(
    "id_",
    [
        "",
        "a/b",
        "a\\b",
        "a?b",
        "a#b",
        "a\0b",
        "a ",
        ".",
        "..",
        "a\tb",
        "a\r",
        "\n",
        "a" * 1024,
        "é" * 512,
        "\ud800",
        None,
        1,
        True,
        ["a"],
    ],
)
def test_an_id_that_one_of_the_stores_cannot_hold_is_refused(id_: object) -> None:
    with pytest.raises(DocumentRefusedError):
        check_id(id_)


@given(texts)
def test_an_id_is_accepted_whole_or_refused(id_: str) -> None:
    try:
        assert check_id(id_) == id_
    except DocumentRefusedError:
        assert not id_ or set(id_) & set("/\\?#\t\r\n") or id_.endswith(" ") or id_ in {".", ".."}


def test_identities_with_equal_ids_in_two_partitions_differ() -> None:
    one, other = Identity.of("S", ["a"], "x"), Identity.of("S", ["b"], "x")
    assert one != other
    assert json.loads(one.partition_key) == ["a"]
    assert str(one) == "S [\"a\"] 'x'"
