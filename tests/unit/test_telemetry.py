"""Logs steer no terminal and forge no line, whatever an id holds."""

from __future__ import annotations

import json

import pytest
import structlog

from core.settings import Settings
from core.telemetry import configure_logging


@pytest.mark.parametrize("hostile", ["a\x1b[2Jä", "a\x9b31mä", "a\nforged\r\u2028 ä"])
@pytest.mark.parametrize("shape", ["console", "json"])
def test_what_an_id_holds_is_spelled_and_obeyed_by_no_terminal(
    shape: str, hostile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(Settings.load(log_format=shape))
    structlog.get_logger().warning("relay.parked", document_id=hostile)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "\x1b[2J" not in said
    assert not {"\x9b", "\r", "\u2028"} & set(said)
    assert "ä" in said or "\\u00e4" in said


def test_a_traceback_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings.load(log_format="console"))
    try:
        json.loads("{")
    except ValueError:
        structlog.get_logger().exception("program.failed")
    assert "\nTraceback" in capsys.readouterr().err.replace("\x1b[0m", "")
