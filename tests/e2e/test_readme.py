"""The README is true: its example runs, its links lead somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.e2e import quickstart


def test_your_own_domain_takes_at_most_forty_lines() -> None:
    assert len([line for line in quickstart.block("python").splitlines() if line.strip()]) <= 40


def test_the_commands_of_your_own_domain_bring_ada_to_cosmos(tmp_path: Path) -> None:
    ada = quickstart.follow(Path(sys.executable).parent, tmp_path)
    assert (ada["name"], ada["email"]) == ("Ada", "ada@example.org")
    envelope = ada["crossfeed"]
    assert (envelope["epoch"], envelope["version"], envelope["origin"]) == (2, 2, "postgres")


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", quickstart.README.read_text())
    assert links
    assert [link for link in links if not (quickstart.README.parent / link).exists()] == []
