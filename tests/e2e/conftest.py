"""Runs the command line in this process, with the test's own stores."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from functions.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.settings import Settings

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command with the test's own stores, or with what replaces their settings; None unsets one."""
    for name in [name for name in os.environ if name.startswith("CROSSFEED_")]:
        monkeypatch.delenv(name)
    environment = environment_of(settings)

    def run(*arguments: str, **settings: str | None) -> tuple[int, str, str]:
        with monkeypatch.context() as patched:
            for name, value in (environment | settings).items():
                if value is not None:
                    patched.setenv(f"CROSSFEED_{name.upper()}", value)
            patched.setattr(sys, "argv", ["crossfeed", *arguments])
            capfd.readouterr()
            try:
                main()
                code = 0
            except SystemExit as ended:
                code = int(ended.code or 0)
        output, errors = capfd.readouterr()
        return code, output, errors

    return run


def environment_of(settings: Settings) -> dict[str, str | None]:
    assert settings.postgres_dsn is not None
    assert settings.cosmos_key is not None
    return {
        "postgres_dsn": settings.postgres_dsn.get_secret_value(),
        "cosmos_endpoint": settings.cosmos_endpoint,
        "cosmos_key": settings.cosmos_key.get_secret_value(),
        "cosmos_database": settings.cosmos_database,
        "mappings": settings.mappings,
    }
