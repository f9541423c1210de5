"""Names the trace that a write belongs to, so that its message and its events can be followed to the other store."""

from __future__ import annotations

from opentelemetry import trace


def traceparent() -> str | None:
    """Return the current span as W3C Trace Context spells it, None where there is none."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    ids = f"{trace.format_trace_id(context.trace_id)}-{trace.format_span_id(context.span_id)}"
    return f"00-{ids}-{context.trace_flags:02x}"
