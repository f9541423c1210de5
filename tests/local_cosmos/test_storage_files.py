"""What may be opened as an account's file, by whom, and how one that is no good is named."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from typing import TYPE_CHECKING

import pytest

from core.local.cosmos import CosmosServer
from core.local.cosmos.storage.file import FORMAT, FileInUseError, StorageError
from core.local.cosmos.storage.restore import open_account

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_an_empty_file_becomes_an_account(file: Path) -> None:
    file.touch()
    open_account(file).close()
    account = open_account(file)
    assert account.databases == {}
    account.close()


async def test_a_second_server_is_told_that_the_file_is_in_use_and_a_third_may_have_it(file: Path) -> None:
    async with CosmosServer(file=file):
        with pytest.raises(FileInUseError, match=r"account\.db is in use"):
            await CosmosServer(file=file).start()
        command = (sys.executable, "-m", "core.local.cosmos", "--file", str(file))
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, errors = await process.communicate()
        assert (process.returncode, errors) == (1, f"error: {file} is in use: another server has it open.\n".encode())
    async with CosmosServer(file=file):
        pass


async def test_a_server_that_cannot_listen_leaves_the_file_to_others(file: Path) -> None:
    async with CosmosServer() as first:
        with pytest.raises(Exception, match=str(first.port)):
            await CosmosServer(port=first.port, file=file).start()
        open_account(file).close()


def foreign(file: Path) -> None:
    other = sqlite3.connect(file)
    other.execute("CREATE TABLE documents (x)")
    other.close()


def newer(file: Path) -> None:
    open_account(file).close()
    other = sqlite3.connect(file)
    other.execute(f"PRAGMA user_version = {FORMAT + 1}")
    other.close()


def damaged(file: Path) -> None:
    account = open_account(file)
    account.create_database({"id": "db"}, None, None)
    account.close()
    raw = bytearray(file.read_bytes())
    raw[4096:] = b"\x55" * (len(raw) - 4096)
    file.write_bytes(raw)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda file: file.write_text("something else" * 99), "is not a file of the embedded Cosmos DB"),
        (foreign, "is not a file of the embedded Cosmos DB"),
        (newer, f"has format {FORMAT + 1}; this version reads format {FORMAT}"),
        (damaged, "is damaged"),
        (lambda file: file.mkdir(), "is a directory"),
    ],
)
def test_a_file_that_is_no_good_is_named_with_what_is_wrong_and_left_alone(
    file: Path, prepare: Callable[[Path], object], said: str
) -> None:
    prepare(file)
    before = file.read_bytes() if file.is_file() else None
    with pytest.raises(StorageError, match=said) as caught:
        open_account(file)
    assert str(file) in str(caught.value)
    assert before is None or file.read_bytes() == before


def test_a_place_where_no_file_can_be_is_named(file: Path) -> None:
    with pytest.raises(StorageError, match="no directory"):
        open_account(file / "x" / "y")
    with pytest.raises(StorageError, match="null"):
        open_account(file.parent / "a\0b")
    with pytest.raises(StorageError, match="cannot be"):
        open_account(type(file)("/dev/full"))
