"""The README is true: its example is short, its links lead somewhere (test_wheel.py runs its commands)."""

from __future__ import annotations

import re

from tests.e2e import quickstart


def test_your_own_domain_takes_at_most_forty_lines() -> None:
    assert len(quickstart.block("python").splitlines()) <= 40


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", quickstart.README.read_text())
    assert links
    assert [link for link in links if not (quickstart.README.parent / link).exists()] == []
