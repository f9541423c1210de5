"""Instants: a date keeps its spelling, is never rounded up, and orders like any datetime."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from core.instant import Instant, spell
from tests.unit.strategies import date_texts

END_OF_TIME = "9999-12-31T23:59:59.9999999"


class Dated(BaseModel):
    at: Instant


@given(date_texts())
def test_a_date_of_a_document_is_spelled_back_to_the_letter(text: str) -> None:
    assert Instant.parse(text).text == text
    assert Dated.model_validate({"at": text}).model_dump(mode="json") == {"at": text}
    assert Dated.model_validate({"at": text}).model_dump_json() == f'{{"at":"{text}"}}'


@given(date_texts(), date_texts())
def test_the_order_is_that_of_datetime(one: str, other: str) -> None:
    first, second = Instant.parse(one), Instant.parse(other)
    assert (first < second) == (datetime.fromisoformat(spell(first)) < datetime.fromisoformat(spell(second)))
    assert (first == second) == (spell(first) == spell(second))
    assert (spell(first) < spell(second)) == (first < second)  # so text order in Cosmos DB is time order


@given(date_texts())
def test_digits_beyond_the_microsecond_are_cut_and_never_rounded_up(text: str) -> None:
    moment = Instant.parse(text)
    assert spell(moment)[:26] <= spell(moment)
    whole, _, fraction = text.partition(".")
    if fraction:
        assert f"{moment.microsecond:06d}" == fraction[:6].ljust(6, "0")
    seconds = f"{whole}T00:00:00".split("T")[1][6:8]  # offsets are whole minutes
    assert f"{moment.second:02d}" == seconds


def test_the_end_of_time_stays_in_its_year() -> None:
    end = Instant.parse(END_OF_TIME)
    assert (end.year, end.microsecond, end.tzinfo) == (9999, 999999, UTC)
    assert end.text == END_OF_TIME
    assert spell(end) == "9999-12-31T23:59:59.9999990Z"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "infinity",
        "9999-12-31T23:59:59.9999999-05:00",
        "0001-01-01T00:00:00+02:00",
        "10000-01-01",
        "2026-02-30",
    ],
)
def test_what_is_no_point_in_time_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        Instant.parse(text)
    with pytest.raises(ValidationError):
        Dated.model_validate({"at": text})


@pytest.mark.parametrize("value", [None, 1, 1.5, True, [], {}])
def test_what_is_neither_text_nor_datetime_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        Dated.model_validate({"at": value})


@given(
    st.datetimes(
        datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.sampled_from([None, UTC, ZoneInfo("Asia/Tokyo")])
    )
)
def test_a_moment_made_by_code_is_spelled_in_utc_with_seven_digits(moment: datetime) -> None:
    instant = Instant.at(moment)
    assert len(instant.text) == 28
    assert instant.text.endswith("0Z")
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    assert instant == aware.astimezone(UTC) == datetime.fromisoformat(instant.text)
    assert Instant.at(instant) is instant


@given(date_texts())
def test_copies_and_pickles_keep_the_spelling(text: str) -> None:
    instant = Instant.parse(text)
    for copied in (copy.copy(instant), copy.deepcopy(instant), pickle.loads(pickle.dumps(instant))):
        assert isinstance(copied, Instant)
        assert copied.text == text
        assert copied == instant
    held = Dated(at=instant)
    assert held.model_copy(deep=True).at.text == text
    assert pickle.loads(pickle.dumps(Instant.at(instant + timedelta(0)))).text == spell(instant)


def test_arithmetic_gives_another_moment_with_a_spelling_of_its_own() -> None:
    old = Instant.parse("2026-01-31T08:00:00.1234567")
    later = old + timedelta(minutes=15)
    assert isinstance(later, Instant)
    assert later.text == "2026-01-31T08:15:00.1234560Z"
    assert old.replace(hour=9).text == "2026-01-31T09:00:00.1234560Z"
    elsewhere = Instant.at(datetime(2026, 1, 31, 10, tzinfo=timezone(timedelta(hours=2))))
    assert elsewhere.text == "2026-01-31T08:00:00.0000000Z"
    assert elsewhere - Instant.parse("2026-01-31T08:00:00") == timedelta(0)


def test_a_text_without_an_offset_counts_as_utc_and_hashes_like_it() -> None:
    one, other = Instant.parse("2026-01-31T08:00:00"), Instant.parse("2026-01-31T10:00:00+02:00")
    assert one == other
    assert hash(one) == hash(other) == hash(datetime(2026, 1, 31, 8, tzinfo=UTC))
