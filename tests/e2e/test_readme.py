"""The README is true: its example is short, its links lead somewhere (its commands: test_readme_commands.py)."""

from __future__ import annotations

import re

import pytest

from tests.e2e import documented, quickstart


def test_your_own_domain_takes_at_most_forty_lines() -> None:
    assert len(quickstart.block("python").splitlines()) <= 40


@pytest.mark.parametrize("page", documented.PAGES)
def test_every_link_leads_to_a_file(page: str) -> None:
    file = documented.ROOT / page
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", file.read_text())
    assert links
    assert [link for link in links if not (file.parent / link).exists()] == []
