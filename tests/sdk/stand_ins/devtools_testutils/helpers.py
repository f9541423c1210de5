"""Says whether the tests run against a live account; they store their own answer in `is_live._cache`."""

from __future__ import annotations


def is_live() -> bool:
    """Return False: they run against the embedded server."""
    return False
