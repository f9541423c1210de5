"""Follows a write through both stores with OpenTelemetry: names its trace in what is stored, and takes it up again.

The parent of a span on the other side is what the message, the document or the event carries as `traceparent`, so a
write, its relay or mirror, and the handlers of its events are one trace. Only the API is used: without an SDK in the
process nothing is recorded, and what was carried is carried on. Spans hold names, ids and classes of errors, no values.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeGuard

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, Tracer, TracerProvider

UNIT_OF_WORK: Final = "crossfeed.unit_of_work"
PUBLISH: Final = "crossfeed.publish"
PUBLISH_EVENT: Final = "crossfeed.publish_event"
MIRROR: Final = "crossfeed.mirror"
HANDLE: Final = "crossfeed.handle"

_SPELLED: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)


def traceparent(span: Span | None = None) -> str | None:
    """Return a span, the current one unless given, as W3C Trace Context spells it; None where there is none."""
    context = (span or trace.get_current_span()).get_span_context()
    if not context.is_valid:
        return None
    ids = f"{trace.format_trace_id(context.trace_id)}-{trace.format_span_id(context.span_id)}"
    return f"00-{ids}-{context.trace_flags:02x}"


def is_traceparent(value: object) -> TypeGuard[str]:
    """Whether something that was stored names a span; whoever wrote it, so anything may be in it."""
    return isinstance(value, str) and _context_of(value) is not None


def is_tracing() -> bool:
    """Whether an SDK is there to record spans; otherwise nobody need look for their parents."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def link_to(parent: str) -> Link | None:
    """Return a link to the span that a traceparent names, None if it names none."""
    context = _context_of(parent)
    return None if context is None else trace.Link(context)


def record_step(  # noqa: PLR0913 - the facts of a span
    name: str,
    parent: str | None,
    began: int,
    attributes: Mapping[str, str],
    *,
    links: Sequence[Link] = (),
    kind: SpanKind = SpanKind.CONSUMER,
    error: str | None = None,
) -> None:
    """Record a step of a write that has ended just now.

    Args:
        name: the span's.
        parent: the traceparent of the write; a step without one is nobody's and is not recorded.
        began: when it began, in nanoseconds since 1970.
        attributes: no values of documents.
        links: other writes that it did the work of.
        kind: the span's.
        error: why it has failed, if it has; no values.

    """
    context = _remote(parent)
    if context is None:
        return
    span = _tracer().start_span(
        name, context=context, kind=kind, attributes=dict(attributes), links=links, start_time=began
    )
    if error is not None:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end()


@contextmanager
def handling(handler: str, parent: object, attempt: int) -> Iterator[None]:
    """Be the current span while a handler has an event; a child of what recorded the event, if that is known."""
    with _tracer().start_as_current_span(
        HANDLE,
        context=_remote(parent),
        kind=SpanKind.CONSUMER,
        attributes={"crossfeed.handler": handler, "crossfeed.attempt": attempt},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


class UnitTrace:
    """The span of one unit of work, from its making to its end.

    It is the current span only where the unit itself works (`inside`): the unit's user may end it in another task.

    Args:
        store: which store the unit is on, `postgres` or `cosmos`.

    """

    def __init__(self, store: str) -> None:
        self._span = _tracer().start_span(UNIT_OF_WORK, attributes={"crossfeed.store": store})
        self._outcome = "read"

    @property
    def traceparent(self) -> str | None:
        """What messages and documents of the unit carry; None where nobody traces."""
        return traceparent(self._span)

    def inside(self) -> AbstractContextManager[Span]:
        """Be the current span."""
        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)

    def committed(self) -> None:
        """Note that it has committed."""
        self._outcome = "committed"

    def end(self, error: BaseException | None) -> None:
        """End the span; `error` is what the unit was left with."""
        if not self._span.is_recording():
            return
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        self._span.set_attribute("crossfeed.outcome", self._outcome)
        self._span.end()


def _context_of(spelled: str) -> SpanContext | None:
    found = _SPELLED.fullmatch(spelled)
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return context if context.is_valid else None


def _remote(parent: object) -> Context | None:
    context = _context_of(parent) if isinstance(parent, str) else None
    return None if context is None else trace.set_span_in_context(NonRecordingSpan(context))


@lru_cache(maxsize=1)
def _tracer_of(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("crossfeed")


def _tracer() -> Tracer:
    return _tracer_of(trace.get_tracer_provider())
