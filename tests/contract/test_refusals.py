"""What one of the two stores could not hold is refused by both, at the call, before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from core.domain.account import Account
from core.domain.pending_signup import PendingSignup
from core.errors import DocumentRefusedError
from tests.contract.stores import save

if TYPE_CHECKING:
    from core.entity import Entity
    from tests.contract.stores import Db

REFUSED_IDS = {
    "empty": "",
    "too long": "x" * 1024,
    "too many bytes": "é" * 512,
    "slash": "a/b",
    "backslash": "a\\b",
    "question mark": "a?b",
    "hash": "a#b",
    "NUL": "a\0b",
    "space at the end": "a ",
    "tab": "a\tb",
    "line end": "a\nb",
    "half a surrogate pair": "\ud800",
    "reserved": "crossfeed-watermark",
}


@pytest.mark.parametrize("id_", REFUSED_IDS.values(), ids=REFUSED_IDS)
async def test_an_id_that_one_of_the_stores_cannot_hold_is_refused(db: Db, id_: str) -> None:
    await _refused(db, Account(id=id_))


@pytest.mark.parametrize(
    "email",
    ["\0", "\ud800", "x" * 2047, "é" * 1023],
    ids=["NUL", "half a surrogate pair", "too long", "too many bytes"],
)
async def test_a_partition_key_that_one_of_the_stores_cannot_hold_is_refused(db: Db, email: str) -> None:
    await _refused(db, PendingSignup(id="s", email=email))


REFUSED_CONTENT: dict[str, Any] = {
    "NUL": "a\0b",
    "NUL in a name": {"a\0b": 1},
    "NUL in a list": [{"a": ["\0"]}],
    "half a surrogate pair": "\udfff",
    "integer beyond a double": 2**53 + 1,
    "huge integer": 10**400,
    "NaN": float("nan"),
    "infinity": [float("-inf")],
    "over 2 MB": "x" * (2 * 1024 * 1024),
    "over 2 MB in bytes": "é" * (1024 * 1024),
}


@pytest.mark.parametrize("value", REFUSED_CONTENT.values(), ids=REFUSED_CONTENT)
async def test_content_that_one_of_the_stores_cannot_hold_is_refused(db: Db, value: Any) -> None:
    account = Account.model_validate({"id": "new", "Extra": value})
    await _refused(db, account)
    kept = Account(id="kept", display_name="before")
    await save(db, kept)
    assert kept.model_extra is not None
    kept.model_extra["Extra"] = value
    async with db.unit_of_work() as work:
        with pytest.raises(DocumentRefusedError):
            await work[Account].update(kept)
        await work.commit()
    async with db.unit_of_work() as work:
        found = await work[Account].get_by_id("kept")
        assert found is not None
        assert found.model_extra == {}


async def test_a_field_that_holds_what_its_type_does_not_allow_is_refused(db: Db) -> None:
    account = Account(id="a")
    account.created_at = "yesterday"  # type: ignore[assignment]
    await _refused(db, account)


async def _refused(db: Db, entity: Entity) -> None:
    """Refused at the call, and the unit goes on as if nothing had been asked."""
    neighbour = PendingSignup(id="neighbour", email="a@x")
    async with db.unit_of_work() as work:
        await work[PendingSignup].add(neighbour)
        with pytest.raises(DocumentRefusedError) as refusal:
            await work[type(entity)].add(entity)
        await work.commit()
    assert len(str(refusal.value)) < 500, "a message names the place, it does not quote the content"
    async with db.unit_of_work() as work:
        assert await work[type(entity)].count() == (1 if isinstance(entity, PendingSignup) else 0)
        assert await work[PendingSignup].exists("neighbour")
