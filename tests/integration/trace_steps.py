"""What the tests of traces share: an SDK that keeps its spans, and both directions with somebody who takes events."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from core.crossfeed import Crossfeed
from core.domain.account import Account
from core.domain.mappings import ACCOUNTS
from core.domain.shapes import UNSET
from core.domain.use_cases.accounts import register_account
from functions.bootstrap import bootstrap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.trace import SpanContext
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.settings import Settings
    from functions.bootstrap import Application

OTHERS = f"00-{7:032x}-{7:016x}-01"


class Spans(InMemorySpanExporter):
    """What was recorded, in the order in which it ended."""

    def of(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.get_finished_spans() if span.name == name]


def recording(monkeypatch: pytest.MonkeyPatch, provider: TracerProvider) -> Spans:
    spans = Spans()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", provider)
    return spans


@asynccontextmanager
async def both(
    settings: Settings, engine: AsyncEngine, store: CosmosStore
) -> AsyncIterator[tuple[Application, Crossfeed]]:
    consuming = settings.model_copy(update={"consumers": "core.domain.welcomes:HANDLERS"})
    async with (
        bootstrap(consuming, engine=engine, store=store) as application,
        Crossfeed.open(settings, application.mappings) as db,
    ):
        yield application, db


async def register(db: Crossfeed, name: str = "Ann") -> None:
    async with db.unit_of_work() as work:
        await register_account(
            work, id_=name, email=f"{name}@example.org", auth0_user_id="", display_name=name, now=UNSET
        )
        await work.commit()


async def rename(db: Crossfeed, name: str) -> None:
    async with db.unit_of_work() as work:
        account = await work[Account].get_by_id("Ann")
        assert account is not None
        account.display_name = name
        await work[Account].update(account)
        await work.commit()


async def document_of(store: CosmosStore, id_: str = "Ann") -> Document:
    return dict(await store.container(ACCOUNTS).read_item(id_, id_))


def context_of(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    of = context_of(parent)
    return span.parent is not None and (span.parent.trace_id, span.parent.span_id) == (of.trace_id, of.span_id)
