"""Queries: all the spellings that old documents may hold of a value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.domain.game_session import ACTIVE, GameSession, SessionStatus
from core.query import spellings

if TYPE_CHECKING:
    from core.domain.shapes import StoredEnum


def test_a_stored_choice_is_looked_for_as_text_and_as_number() -> None:
    assert spellings(SessionStatus.PAUSED) == ("Paused", 2)
    assert [spellings(status) for status in ACTIVE] == [("InProgress", 1), ("Paused", 2)]


@pytest.mark.parametrize("value", ["text", 1, 1.5, None, True, ""])
def test_a_plain_value_has_one_spelling(value: object) -> None:
    assert spellings(value) == (value,)


@pytest.mark.parametrize("status", SessionStatus)
def test_every_spelling_of_a_choice_reads_as_the_choice(status: StoredEnum) -> None:
    for spelling in spellings(status):
        session = GameSession.model_validate({"id": "s", "accountId": "a", "Status": spelling})
        assert session.status is status
        assert session.model_dump(mode="json", by_alias=True)["Status"] == status.value
