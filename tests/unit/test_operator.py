"""A command names who runs it, also where the system has no name for that."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

import pytest

from functions.cli.operator import operator

if TYPE_CHECKING:
    from typing import NoReturn


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def getuser() -> NoReturn:
        raise error

    monkeypatch.setattr(getpass, "getuser", getuser)
    assert operator() == f"uid {os.getuid()}"
