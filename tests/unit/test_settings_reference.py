"""The reference of the settings is complete, and what the README prints of it is the class as it is."""

from __future__ import annotations

import re
from pathlib import Path

from core.settings import Settings
from core.settings_reference import GROUPS, markdown, reference, variables

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"<!-- settings: crossfeed settings --markdown -->\n(.*)\n<!-- end of settings -->", re.DOTALL)


def test_every_setting_is_described_and_in_a_group() -> None:
    found = reference()
    assert sorted(one.name for one in found) == sorted(Settings.model_fields)
    assert [one.name for one in found if not one.group] == []
    assert [one.name for one in found if not one.description] == []
    assert {one.group for one in found} == set(GROUPS)


def test_a_setting_is_described_as_it_is_read() -> None:
    known = {one.name: one for one in reference()}
    endpoint = known["cosmos_endpoint"]
    assert (endpoint.variable, endpoint.also) == ("CROSSFEED_COSMOS_ENDPOINT", ("COSMOS__accountEndpoint",))
    assert known["postgres_auth"].kind == "`password`, `entra`"
    assert (known["postgres_pool_size"].kind, known["postgres_pool_size"].default) == ("integer, from 1 to 200", "10")
    assert known["admin_token"].kind == "secret text, at least 16 characters"
    assert (known["mirror_reconcile"].kind, known["mirror_reconcile"].default) == ("`true`, `false`", "true")
    assert known["shadow_read_share"].default == "0"
    assert known["phase"].default == ""
    assert known["postgres_dsn"].is_secret
    assert known["cosmos_key"].is_secret
    assert not known["mappings"].is_secret


def test_no_secret_has_a_default_and_every_name_is_read() -> None:
    assert [one.name for one in reference() if one.is_secret and one.default] == []
    assert len(variables()) == len(Settings.model_fields) + 1


def test_the_readme_has_the_reference() -> None:
    assert BLOCK.search(README.read_text())


def test_the_readmes_reference_is_current() -> None:
    for block in BLOCK.findall(README.read_text()):
        assert block.strip() == markdown(), "run: crossfeed settings --markdown"


def test_the_tables_are_markdown() -> None:
    for line in markdown().splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 5
            assert "<" not in line
