"""Gives credentials of a live account, which there is none of: the emulator's key is used instead."""

from __future__ import annotations


def get_credential(*, is_async: bool = False) -> None:
    """Return no credential."""
