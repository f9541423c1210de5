"""The SDK's own tests pass against the embedded server as listed: the short form of `make sdk-tests`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.sdk import running, source
from tests.sdk.files import SHORT
from tests.sdk.verdict import Listed, judge

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timeout(300)
async def test_the_sdks_own_tests_pass_as_listed() -> None:
    runs = await running.run(SHORT, jobs=2, say=print)
    verdict = judge(runs, Listed.load(), SHORT)
    assert verdict.problems == ()


def test_without_a_way_to_fetch_the_tests_the_command_says_what_to_do(tmp_path: Path) -> None:
    pin = source.pinned()
    (tmp_path / pin.archive).write_bytes(b"half a download")  # never taken for the whole
    done = subprocess.run(
        [sys.executable, "-m", "tests.sdk", "--cache", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=source.ROOT,
        env={**os.environ, "PIP_NO_INDEX": "1"},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: pip could not download {pin.archive}")
    assert f"put the file into {tmp_path} by hand" in done.stderr
    assert "No matching distribution" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
async def test_stopping_the_command_ends_the_server_too(stop: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.sdk", "test_ttl.py"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=source.ROOT,
    )
    assert process.stdout is not None
    begun = (await process.stdout.readline()).decode()
    process.send_signal(stop)
    _, said = await process.communicate()
    assert (process.returncode, said) == (130, b"interrupted\n")
    port = int(begun.rpartition(":")[2].strip().rstrip("/"))
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0
