"""Sets up structlog once per process: named events on stderr, JSON in a pipe, without payloads or secrets."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

from core.printable import printable

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

    from core.settings import Settings


def configure_logging(settings: Settings) -> None:
    """Send structlog events and standard-library warnings to stderr; stdout stays for results."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    renderers: list[Processor] = (
        [structlog.processors.JSONRenderer()] if as_json else [_printable, structlog.dev.ConsoleRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        level=max(level, logging.WARNING), stream=sys.stderr, format="%(levelname)s %(name)s %(message)s"
    )
    _quieten_libraries()


def configure_host_logging(settings: Settings) -> None:
    """Send structlog events as JSON to the standard library's logger `crossfeed`, whose handlers are the host's."""
    logging.getLogger("crossfeed").setLevel(settings.log_level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.filter_by_level,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=_HostLoggers(),
        cache_logger_on_first_use=False,
    )
    _quieten_libraries()


def _printable(_: object, __: str, event: EventDict) -> EventDict:
    """Spell what is no printable character: an id may hold what a terminal obeys. Tracebacks keep their lines."""
    return {
        name: printable(value) if isinstance(value, str) and name != "exception" else value
        for name, value in event.items()
    }


class _HostLoggers:
    """Gives every module the one logger whose level is the settings'."""

    def __call__(self, *_: object) -> logging.Logger:
        return logging.getLogger("crossfeed")


def _quieten_libraries() -> None:
    # The SDK logs whole requests, headers included, at INFO.
    logging.getLogger("azure").setLevel(logging.ERROR)
    # A connection that was lost is thrown away with a traceback; whoever used it says what became of that.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
