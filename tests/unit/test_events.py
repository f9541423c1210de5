"""Events have names, versions and an envelope, and old versions are read by way of upcasters."""

from __future__ import annotations

import math
from typing import Any

import pytest

from core.domain.events import EVENTS, AccountRegistered
from core.errors import DocumentRefusedError, MappingError
from core.events import Event, EventMaker, EventRegistry, events_of, subject_of
from core.identity import Identity

ACCOUNT = Identity.of("Account", ["acc-1"], "acc-1")
MAKER = EventMaker(clock=lambda: 1_700_000_000.25, new_id=lambda: "event-1")


class Renamed(Event, name="account.renamed", version=3):
    """The newest shape."""

    first: str
    last: str


class Amount(Event, name="amount"):
    value: Any = None


def envelope(version: int, data: Any) -> dict[str, Any]:
    return {"type": "account.renamed", "dataschema": f"urn:crossfeed:event:account.renamed:{version}", "data": data}


REGISTRY = EventRegistry(
    [Renamed],
    {
        ("account.renamed", 1): lambda data: {"name": data["title"]},
        ("account.renamed", 2): lambda data: dict(zip(("first", "last"), data["name"].split(" "), strict=True)),
    },
)


def test_an_envelope_is_a_cloud_event() -> None:
    assert MAKER.envelope(AccountRegistered(email="a@b", display_name="Ann"), ACCOUNT) == {
        "specversion": "1.0",
        "id": "event-1",
        "source": "/crossfeed/Account",
        "type": "account.registered",
        "subject": "Account/acc-1",
        "time": "2023-11-14T22:13:20.250000Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:crossfeed:event:account.registered:1",
        "data": {"email": "a@b", "display_name": "Ann"},
    }


def test_an_event_is_read_back_from_its_envelope() -> None:
    event = AccountRegistered(email="a@b", display_name="Ann")
    assert EVENTS.event(MAKER.envelope(event, ACCOUNT)) == event


@pytest.mark.parametrize(
    "old",
    [envelope(1, {"title": "Ann Lee"}), envelope(2, {"name": "Ann Lee"}), envelope(3, {"first": "Ann", "last": "Lee"})],
)
def test_old_versions_are_read_by_way_of_upcasters(old: dict[str, Any]) -> None:
    assert REGISTRY.event(old) == Renamed(first="Ann", last="Lee")


def test_what_cannot_be_read_is_said() -> None:
    with pytest.raises(MappingError, match="version 4; this program knows it up to 3"):
        REGISTRY.event(envelope(4, {}))
    with pytest.raises(MappingError, match=r"no event is called 'account.registered'; there are account.renamed"):
        REGISTRY.event(MAKER.envelope(AccountRegistered(email="", display_name=""), ACCOUNT))
    with pytest.raises(DocumentRefusedError, match=r"do not fit its class, at first, last$"):
        REGISTRY.event(envelope(3, {"secret": 1}))
    with pytest.raises(DocumentRefusedError, match="no JSON object"):
        REGISTRY.event(envelope(3, [1]))
    with pytest.raises(DocumentRefusedError, match="no event that Crossfeed recorded"):
        REGISTRY.event({"type": "account.renamed"})


def test_a_registry_is_checked_when_it_is_made() -> None:
    class Nameless(Event):
        pass

    with pytest.raises(MappingError, match="Nameless has no name"):
        EventRegistry([Nameless])
    with pytest.raises(MappingError, match="Nameless has no name"):
        MAKER.envelope(Nameless(), ACCOUNT)
    with pytest.raises(MappingError, match="two classes"):
        EventRegistry([AccountRegistered, AccountRegistered])
    with pytest.raises(MappingError, match="version 1 has no upcaster"):
        EventRegistry([Renamed])


@pytest.mark.parametrize("value", [2**53 + 1, math.nan, "\0", object()], ids=["integer", "nan", "nul", "no json"])
def test_what_one_of_the_stores_cannot_hold_is_refused_when_it_is_recorded(value: Any) -> None:
    with pytest.raises(DocumentRefusedError):
        MAKER.envelope(Amount(value=value), ACCOUNT)


def test_every_aggregate_has_a_subject_that_fits_a_partition_key() -> None:
    assert subject_of(Identity.of("GameSession", ["acc-1"], "s-1")) == 'GameSession/s-1/["acc-1"]'
    long = [subject_of(Identity.of("Account", ["x" * 2040, n], "a")) for n in (1, 2)]
    assert len(set(long)) == 2
    assert all(len(subject.encode()) <= 2048 for subject in long)


def test_a_document_carries_the_events_of_its_own_aggregate_alone() -> None:
    mine = MAKER.envelope(Amount(), ACCOUNT)
    other = MAKER.envelope(Amount(), Identity.of("Account", ["acc-2"], "acc-2"))
    for carried in ([mine, other, 5, {}, {"id": 1, "subject": mine["subject"]}], None, "text"):
        expected = (mine,) if isinstance(carried, list) else ()
        assert events_of({"crossfeed": {"events": carried}}, ACCOUNT) == expected
    assert events_of({"crossfeed": 1}, ACCOUNT) == ()
