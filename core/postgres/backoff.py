"""Spells in SQL when what failed is tried again, for everything that parks: rows with `attempts` and `retry_at`."""

from __future__ import annotations

BACKOFF = """
    make_interval(secs => (0.5 + random() / 2) * least(%(longest_s)s, greatest(
        %(first_s)s * 2 ^ least(greatest({attempts} - 1, 0), 30), extract(epoch FROM {age}) / 10)))
"""
"""How long to wait after so many attempts: ever twice as long, and a tenth of the time for which it has failed already,
because what infrastructure holds up makes no attempts; of this between half and all."""

DUE = """
    (p.retry_at <= statement_timestamp()
        OR (p.retry_at > statement_timestamp() + make_interval(secs => %(longest_s)s) AND p.retry_at < 'infinity'))
"""
"""A time further away than the longest wait was set by a clock that stood wrong."""
