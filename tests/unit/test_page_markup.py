"""How the status page spells and draws: whatever a value holds, it is text."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from functions.page import document
from functions.page.acting import parse
from functions.page.markup import command, table, time_of
from functions.page.plots import lag_plot, rate_plot
from functions.page.spelling import count_of, duration, rate

_PAGE = Path(document.__file__).parent


@given(st.text())
def test_whatever_is_put_into_a_table_or_a_command_is_text(hostile: str) -> None:
    made = table(hostile, (hostile,), [(hostile,)]) + command(hostile)
    assert re.sub(r"</?(div|table|thead|tbody|tr|th|td|code)( [a-z-]+=\"[^\"<>]*\")*>", "", made).count("<") == 0


def test_no_markup_is_made_of_anything_but_literals() -> None:
    for module in _PAGE.glob("*.py"):
        found = re.findall(r"Markup\((?!\s*\)|\s*(?:\"|'))[^)]*\)", module.read_text())
        assert [one for one in found if not one.startswith("Markup(_asset(")] == [], module.name


def test_the_page_refers_to_nothing_elsewhere_and_has_no_inline_handlers() -> None:
    for asset in ("page.css", "page.js"):
        text = (_PAGE / asset).read_text()
        assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text), asset
        assert "innerHTML" not in text
        assert "</" not in text, "it would end the element that it stands in"
    assert "unsafe" not in document.policy()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (600, "10 min"),
        (3599, "59 min"),
        (7260, "2 h 1 min"),
        (86400 * 3 + 3600, "3 d 1 h"),
        (86400 * 30 + 3600, "30 d"),
    ],
)
def test_durations_are_spelled_in_the_units_that_say_something(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_numbers_and_moments_are_spelled_for_people() -> None:
    assert (rate(0), rate(0.25), rate(12345.6)) == ("0/s", "0.2/s", "12,346/s")
    assert (count_of(1, "canary", "canaries"), count_of(2000, "slot")) == ("1 canary", "2,000 slots")
    assert time_of(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == Markup(
        '<time datetime="2026-01-02T03:04:05+00:00">2026-01-02 03:04:05 UTC</time>'
    )


_VALUES = st.lists(st.one_of(st.none(), st.floats(0, 1e9)), min_size=2, max_size=60).map(tuple)


@given(_VALUES)
def test_a_plot_stays_within_its_frame_and_shades_each_gap(values: tuple[float | None, ...]) -> None:
    for drawn in (lag_plot(values, 60.0, "to Cosmos DB"), rate_plot(values, "to Cosmos DB")):
        assert drawn.count('class="gap"') == values.count(None)
        numbers = [float(n) for n in re.findall(r'(?:x|y|width|height)="([-0-9.]+)"', drawn)]
        numbers += [float(n) for points in re.findall(r'points="([^"]+)"', drawn) for n in re.split("[ ,]", points)]
        assert all(-0.1 <= number <= 600.1 for number in numbers)


def test_a_plot_shows_its_limit_only_where_that_is_in_sight() -> None:
    assert 'class="limit"' in lag_plot((1.0, 90.0), 60.0, "to Postgres")
    assert 'class="limit"' not in lag_plot((1.0, 9.0), 60.0, "to Postgres")
    assert 'aria-label="Lag to Postgres over the last 15 minutes, at worst 1 min 30 s"' in lag_plot(
        (1.0, 90.0), 60.0, "to Postgres"
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"act=replay&number=1",
        b"act=replay&number=1&until=yesterday",
        b"act=replay&number=1&until=2026-01-01T00:00:00",
        b"act=erase&number=1&until=2026-01-01T00:00:00%2B00:00",
        b"act=replay&number=x&until=2026-01-01T00:00:00%2B00:00",
        b"act=replay&number=99999999999999999999&until=2026-01-01T00:00:00%2B00:00",
        b"act=discard&number=-1&until=2026-01-01T00:00:00%2B00:00",
        b"&".join(b"number=%d" % n for n in range(2000)),
    ],
)
def test_a_form_that_makes_no_sense_wants_nothing(body: bytes) -> None:
    assert parse(body).wanted is None


def test_a_form_names_letters_once_each_and_as_of_when_they_were_seen() -> None:
    form = parse(b"token=t%26k&act=discard&number=2&number=1&number=2&until=2026-01-01T00:00:00%2B00:00")
    assert form.token == "t&k"
    assert form.wanted is not None
    assert (form.wanted.act.value, form.wanted.numbers) == ("discard", (2, 1))
