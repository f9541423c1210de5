"""One trace from a write to the other store and to the handlers of its events, joined by what is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, TraceFlags

from core.domain.events import AccountRegistered
from core.domain.mappings import ACCOUNTS
from core.envelope import Ours, author_of, trace_of
from core.errors import ConcurrencyError, MappingError
from core.events import Event
from core.phases import Phase
from core.postgres.events import record
from core.tracing import HANDLE, MIRROR, PUBLISH, PUBLISH_EVENT, UNIT_OF_WORK, traceparent
from tests.integration.relay_steps import make_primary, run, until
from tests.integration.trace_steps import (
    OTHERS,
    Spans,
    both,
    context_of,
    document_of,
    is_child,
    recording,
    register,
    rename,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.settings import Settings


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """An SDK in this process, for one test."""
    provider = TracerProvider(shutdown_on_exit=False)
    yield recording(monkeypatch, provider)
    provider.shutdown()


async def test_a_commit_in_postgres_its_document_and_the_handler_of_its_event_are_one_trace(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, spans: Spans
) -> None:
    await make_primary(engine)
    async with both(settings, engine, cosmos) as (application, db):
        with trace.get_tracer("application").start_as_current_span("request"):
            await register(db)
        await application.relay.drain()
        await application.processor.run_once()
        document = await document_of(cosmos)
    [request], [unit] = spans.of("request"), spans.of(UNIT_OF_WORK)
    assert is_child(unit, request)
    for name in (PUBLISH, PUBLISH_EVENT, HANDLE):
        [span] = spans.of(name)
        assert is_child(span, unit), name
        assert span.status.is_ok
    assert document["crossfeed"]["traceparent"] == traceparent(NonRecordingSpan(context_of(unit)))
    assert isinstance(author_of(document), Ours)
    assert spans.of(MIRROR) == []  # what comes back is an echo
    [published] = spans.of(PUBLISH)
    assert dict(published.attributes or {}) == {
        "crossfeed.entity": "Account",
        "crossfeed.id": "Ann",
        "crossfeed.outcome": "written",
    }


async def test_a_write_to_cosmos_its_row_and_the_handler_of_its_event_are_one_trace(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, spans: Spans
) -> None:
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    async with both(settings, engine, cosmos) as (application, db):
        await register(db)
        await application.processor.run_once()
        await application.relay.drain()
        await application.processor.run_once()
        await make_primary(engine)
        await run(engine, "DELETE FROM crossfeed.feed_range WHERE starts_with(feed, 'mirror/')")
        await application.processor.run_once()  # what was written before the primary moved is nobody's news
    [unit] = spans.of(UNIT_OF_WORK)
    assert unit.parent is None
    for name in (MIRROR, PUBLISH_EVENT, HANDLE):
        [span] = spans.of(name)
        assert is_child(span, unit), name
    [mirrored] = spans.of(MIRROR)
    assert dict(mirrored.attributes or {}) == {
        "crossfeed.entity": "Account",
        "crossfeed.id": "Ann",
        "crossfeed.outcome": "mirrored",
    }
    assert spans.of(PUBLISH) == []


async def test_writes_that_one_state_stands_for_are_linked_to_its_span(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, spans: Spans
) -> None:
    await make_primary(engine)
    async with both(settings, engine, cosmos) as (application, db):
        await register(db)
        await rename(db, "Ada")
        await rename(db, "Eva")
        await application.relay.drain()
        document = await document_of(cosmos)
    first, second, third = (
        span for span in spans.of(UNIT_OF_WORK) if dict(span.attributes or {})["crossfeed.outcome"] == "committed"
    )
    [published] = spans.of(PUBLISH)
    assert is_child(published, third)
    assert [link.context.span_id for link in published.links] == [context_of(one).span_id for one in (second, first)]
    assert trace_of(document) == traceparent(NonRecordingSpan(context_of(third)))


async def test_without_a_trace_nothing_is_stored_and_an_older_one_is_dropped(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_primary(engine)
    async with both(settings, engine, cosmos) as (application, db):
        with monkeypatch.context() as patched:
            recording(patched, TracerProvider(shutdown_on_exit=False))
            await register(db)
        await application.relay.drain()
        traced = await document_of(cosmos)
        await rename(db, "Ada")
        await application.relay.drain()
        untraced = await document_of(cosmos)
    assert trace_of(traced) is not None
    assert "traceparent" not in untraced["crossfeed"]
    assert untraced["crossfeed"]["version"] == 2


async def test_what_is_not_sampled_is_not_recorded_and_its_trace_is_carried_on(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = recording(monkeypatch, TracerProvider(ALWAYS_OFF, shutdown_on_exit=False))
    await make_primary(engine)
    async with both(settings, engine, cosmos) as (application, db):
        await register(db)
        await application.relay.drain()
        document = await document_of(cosmos)
    assert spans.get_finished_spans() == ()
    assert int(str(trace_of(document))[-2:], 16) & TraceFlags.SAMPLED == 0


async def test_a_document_that_a_foreign_writer_edited_is_not_taken_for_the_write_that_it_names(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, spans: Spans
) -> None:
    await make_primary(engine, Phase.DUAL_WRITE_COSMOS_READ)
    async with both(settings, engine, cosmos) as (application, db):
        await register(db)
        await cosmos.container(ACCOUNTS).upsert_item(await document_of(cosmos) | {"DisplayName": "by hand"})
        await cosmos.container(ACCOUNTS).create_item({"id": "b", "crossfeed": {"traceparent": OTHERS}})
        await application.processor.run_once()
        assert application.processor.stats.applied == 2
        assert spans.of(MIRROR) == []
        await run(engine, "ALTER TABLE accounts ADD CHECK (display_name <> 'Bo')")
        await register(db, "Bo")
        await application.processor.run_once()
        assert application.processor.stats.dead_lettered + application.processor.stats.parked == 1
    [span] = spans.of(MIRROR)
    assert dict(span.attributes or {})["crossfeed.outcome"] == "some set aside"


async def test_what_raw_sql_calls_its_trace_is_stored_only_if_it_is_one(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, spans: Spans
) -> None:
    hostile = ["x" * 10_000, f"{OTHERS}\n", OTHERS.replace("7", "A"), OTHERS.replace("7", "0"), f"01{OTHERS[2:]}"]
    await make_primary(engine)
    async with both(settings, engine, cosmos) as (application, _):
        for number, parent in enumerate([OTHERS, *hostile]):
            async with engine.begin() as connection:
                await connection.exec_driver_sql(
                    "SELECT set_config('crossfeed.traceparent', %(of)s, true)", {"of": parent}
                )
                await connection.exec_driver_sql("INSERT INTO accounts (id) VALUES (%(id)s)", {"id": f"{number}"})
        await application.relay.drain()
    assert trace_of(await document_of(cosmos, "0")) == OTHERS
    for number in range(len(hostile)):
        assert "traceparent" not in (await document_of(cosmos, f"{number + 1}"))["crossfeed"]
    [published] = spans.of(PUBLISH)
    assert published.parent is not None
    assert (published.parent.span_id, published.parent.is_remote) == (7, True)


async def test_a_failure_is_in_the_span_by_its_class_and_never_by_its_values(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, spans: Spans
) -> None:
    await make_primary(engine)
    await run(engine, "DROP TABLE welcomes")
    async with both(settings, engine, cosmos) as (application, db):
        await register(db)
        await application.relay.drain()
        await application.processor.run_once()
        with pytest.raises(ConcurrencyError):
            async with db.unit_of_work():
                raise ConcurrencyError("of ann@example.org")
        with pytest.raises(MappingError):
            async with db.unit_of_work() as work:
                work.record(Event(), of=ACCOUNTS.identity_of("Ann", "Ann"))
    failed = [span for span in spans.get_finished_spans() if not span.status.is_ok]
    assert {(span.name, span.status.description) for span in failed} == {
        (HANDLE, "ProgrammingError"),
        (UNIT_OF_WORK, "ConcurrencyError"),
        (UNIT_OF_WORK, "MappingError"),
    }
    assert all(not span.events for span in spans.get_finished_spans())
    assert "example.org" not in "".join(span.to_json() for span in spans.get_finished_spans())


async def test_an_event_that_a_session_records_is_followed_without_a_unit_of_work(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, spans: Spans
) -> None:
    await make_primary(engine)
    await run(engine, "INSERT INTO accounts (id) VALUES ('a')")
    async with both(settings, engine, cosmos) as (application, _):
        with trace.get_tracer("application").start_as_current_span("request"):
            async with engine.begin() as connection:
                event = AccountRegistered(email="a@example.org", display_name="a")
                await connection.run_sync(record, event, of=ACCOUNTS.identity_of("a", "a"), mapping=ACCOUNTS)
        await application.relay.drain()
    [request], [published] = spans.of("request"), spans.of(PUBLISH_EVENT)
    assert is_child(published, request)


async def test_a_document_that_was_parked_arrives_in_the_trace_of_its_write(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, spans: Spans
) -> None:
    await make_primary(engine)
    async with both(settings.model_copy(update={"relay_retry_first_s": 0.01}), engine, cosmos) as (application, _):
        async with engine.begin() as connection:
            await connection.exec_driver_sql(f"SET LOCAL crossfeed.traceparent = '{OTHERS}'")
            await connection.exec_driver_sql(
                "INSERT INTO accounts (id, display_name) VALUES ('a', repeat('x', 2200000))"
            )
        await application.relay.drain()
        async with engine.begin() as connection:  # without a message
            await connection.exec_driver_sql("SET LOCAL crossfeed.mirroring = 'on'")
            await connection.exec_driver_sql("UPDATE accounts SET display_name = 'small'")
            await connection.exec_driver_sql("UPDATE crossfeed.parked SET retry_at = clock_timestamp()")

        async def is_there() -> bool:
            await application.relay.drain()
            return application.relay.stats.published == 1

        await until(is_there)
    assert trace_of(await document_of(cosmos, "a")) == OTHERS
    outcomes = [dict(span.attributes or {})["crossfeed.outcome"] for span in spans.of(PUBLISH)]
    assert (outcomes[0], outcomes[-1]) == ("refused", "written")
