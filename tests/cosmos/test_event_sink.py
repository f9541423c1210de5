"""Events arrive in their container once, in the order of their aggregate, whatever is repeated and whatever fails."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from core.cosmos.event_sink import EventMessage, EventSink, Held, Postponed, Refused, Unchanged, Written
from core.cosmos.failures import CosmosUnavailableError
from core.cosmos.feed import feed_ranges, pages
from core.errors import TransientError
from core.events import subject_of
from core.local.cosmos.faults import Cut, Match, Operation, Refuse, Rule
from tests.cosmos.example import N1, note_identity, settings_for
from tests.cosmos.steps import once

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.identity import Identity
    from core.local.cosmos.faults import Action, Faults
    from core.local.cosmos.server import CosmosServer
    from tests.cosmos.steps import Seen

N2 = note_identity("n2")


def event(seq: int, identity: Identity = N1, **changes: Any) -> EventMessage:
    body = {"specversion": "1.0", "type": "noted", "subject": subject_of(identity), "data": {"n": seq, "exact": 1.50}}
    fields: dict[str, Any] = {"event_id": f"e{seq}", "event": json.dumps(body | {"id": f"e{seq}"}), "traceparent": None}
    return EventMessage(seq, identity, age_s=0.0, **(fields | changes))


def bad(seq: int, identity: Identity = N1) -> EventMessage:
    """One that no JSON reader could hold."""
    return event(seq, identity, event='{"data": 100000000000000000001}')


@pytest.fixture
def sink(store: CosmosStore, server: CosmosServer) -> EventSink:
    return sink_on(store, server)


def sink_on(store: CosmosStore, server: CosmosServer, **settings: Any) -> EventSink:
    return EventSink(store, settings_for(server, **settings), patience_s=0.3)


async def arrived(store: CosmosStore, identity: Identity = N1) -> list[int]:
    """The events of an aggregate in the order in which consumers see them."""
    container = store.container_named(store.own.events.name)
    found = [
        document
        for feed_range in await feed_ranges(container)
        async for page in pages(container, feed_range, None, 100)
        for document in page.documents
        if document["subject"] == subject_of(identity)
    ]
    numbers = [document["data"]["n"] for document in found]
    assert [document["sequence"] for document in found] == [f"{number:020}" for number in numbers]
    return numbers


async def test_a_document_is_the_envelope_with_its_place_in_the_order(store: CosmosStore, sink: EventSink) -> None:
    message = event(7, traceparent="00-1-2-01")
    await sink.write([message])
    container = store.container_named(store.own.events.name)
    document = await container.read_item("e7", partition_key="Note/n1")
    expected = json.loads(message.event) | {"sequence": "00000000000000000007", "traceparent": "00-1-2-01"}
    assert {key: document[key] for key in document if not key.startswith("_")} == expected


async def test_many_events_go_in_batches_and_stay_in_order(store: CosmosStore, sink: EventSink, seen: Seen) -> None:
    await store.existing_container_named(store.own.events.name)
    seen.forget()
    outcomes = await sink.write([event(seq, identity) for seq in range(1, 251) for identity in (N1, N2)])
    assert all(isinstance(outcome, Written) for outcome in outcomes)
    assert seen.operations.count(Operation.BATCH) == 6
    assert await arrived(store) == await arrived(store, N2) == list(range(1, 251))


async def test_a_batch_stays_below_what_one_request_may_have(store: CosmosStore, sink: EventSink) -> None:
    large = [event(seq, event=json.dumps({"data": {"n": seq, "text": "é" * 400_000}})) for seq in range(1, 4)]
    assert all(isinstance(outcome, Written) for outcome in await sink.write(large))
    assert await arrived(store) == [1, 2, 3]


async def test_what_was_delivered_before_is_found_and_only_the_rest_is_written(
    store: CosmosStore, server: CosmosServer, sink: EventSink
) -> None:
    await sink.write([event(1), event(2)])
    again = [event(seq) for seq in (1, 2, 3, 4)]
    kinds = [type(outcome) for outcome in await sink_on(store, server).write(again)]
    assert kinds == [Unchanged, Unchanged, Written, Written]
    assert [type(outcome) for outcome in await sink.write(again)] == [Unchanged] * 4
    assert await arrived(store) == [1, 2, 3, 4]


async def test_one_that_was_put_into_the_log_again_is_still_the_same(store: CosmosStore, sink: EventSink) -> None:
    first = event(1)
    await sink.write([first])
    [outcome] = await sink.write([event(9, event_id=first.event_id, event=first.event)])
    assert isinstance(outcome, Unchanged)
    assert await arrived(store) == [1]


async def test_a_missing_earlier_one_does_not_loop_for_ever(store: CosmosStore, sink: EventSink) -> None:
    await sink.write([event(3)])
    kinds = [type(outcome) for outcome in await sink.write([event(seq) for seq in (1, 2, 3, 4)])]
    assert kinds == [Written, Written, Unchanged, Written]


@pytest.mark.parametrize("fault", [Cut(moment="before"), Cut(moment="after"), Refuse(status=503, moment="after")])
@pytest.mark.parametrize("number", [1, 5], ids=["single", "batch"])
async def test_an_answer_that_was_lost_costs_no_event_and_doubles_none(
    store: CosmosStore, sink: EventSink, faults: Faults, fault: Action, number: int
) -> None:
    once(faults, fault, Operation.CREATE, Operation.BATCH)
    outcomes = await sink.write([event(seq) for seq in range(1, number + 1)])
    assert all(isinstance(outcome, Written | Unchanged) for outcome in outcomes)
    assert await arrived(store) == list(range(1, number + 1))


async def test_a_refused_event_holds_back_the_later_ones_of_its_aggregate_alone(
    store: CosmosStore, sink: EventSink
) -> None:
    outcomes = await sink.write([event(1), event(1, N2), bad(2), event(3), event(2, N2)])
    assert [type(outcome) for outcome in outcomes] == [Written, Written, Refused, Held, Written]
    assert (await arrived(store), await arrived(store, N2)) == ([1], [1, 2])


async def test_one_that_cosmos_refuses_inside_a_batch_is_found_and_refused_alone(
    store: CosmosStore, sink: EventSink, faults: Faults
) -> None:
    faults.add(
        Rule(do=Refuse(status=413), on=Match(operations=frozenset({Operation.CREATE, Operation.BATCH}), id="e4"))
    )
    outcomes = await sink.write([event(seq) for seq in range(1, 7)])
    assert [type(outcome) for outcome in outcomes] == [Written, Written, Written, Refused, Held, Held]
    assert await arrived(store) == [1, 2, 3]


async def test_another_event_of_the_same_id_is_refused(store: CosmosStore, sink: EventSink) -> None:
    await sink.write([event(1), event(2)])
    outcomes = await sink.write([event(1), event(5, event_id="e2"), event(6)])
    assert [type(outcome) for outcome in outcomes] == [Unchanged, Refused, Held]
    assert await arrived(store) == [1, 2]


async def test_an_aggregate_whose_partition_is_away_is_postponed_while_others_are_written(
    store: CosmosStore, sink: EventSink, faults: Faults
) -> None:
    faults.add(Rule(do=Refuse(status=503), on=Match(partition_key=(subject_of(N1),))))
    faults.add(Rule(do=Refuse(status=429, retry_after_ms=100), on=Match(partition_key=(subject_of(N2),)), times=1))
    outcomes = await sink.write([event(1), event(1, N2), event(2)])
    assert [type(outcome) for outcome in outcomes] == [Postponed, Written, Held]
    faults.clear()
    assert all(isinstance(outcome, Written) for outcome in await sink.write([event(1), event(2)]))


async def test_when_nothing_is_written_it_is_the_store(sink: EventSink, faults: Faults) -> None:
    faults.add(Rule(do=Refuse(status=503), on=Match(operations=frozenset({Operation.CREATE}))))
    with pytest.raises(CosmosUnavailableError):
        await sink.write([event(1), event(1, N2)])


async def test_a_missing_container_is_named(store: CosmosStore, sink: EventSink) -> None:
    await store.client.get_database_client(store.database).delete_container(store.own.events.name)
    with pytest.raises(CosmosUnavailableError, match="container 'crossfeed-events' of domain events does not exist"):
        await sink.write([event(1)])


async def test_nothing_is_sent_once_the_lease_is_over(store: CosmosStore, sink: EventSink, seen: Seen) -> None:
    def check() -> None:
        if Operation.BATCH in seen.operations:
            raise TransientError("the lease is over")

    with pytest.raises(TransientError, match="lease"):
        await sink.write([event(seq) for seq in range(1, 202)], check=check)
    assert await arrived(store) == list(range(1, 101))


async def test_any_id_will_do(store: CosmosStore, sink: EventSink) -> None:
    odd = [event(n, event_id=id_) for n, id_ in enumerate(("a/b", "é" * 600, "x ", "\0", "#?"), 1)]
    assert all(isinstance(outcome, Written) for outcome in await sink.write(odd))
    assert all(isinstance(outcome, Unchanged) for outcome in await sink.write(odd))
    assert await arrived(store) == [1, 2, 3, 4, 5]
