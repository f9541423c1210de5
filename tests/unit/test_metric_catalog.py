"""The catalog names every metric well, nothing else can be served, and the README prints it as it is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from core.cache.stats import CacheStats
from core.metric_catalog import CATALOG, Kind, as_markdown
from core.metric_families import Samples
from outbox.stats import RelayStats

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"<!-- metrics: core.metric_catalog.as_markdown -->\n(.*)\n<!-- end of metrics -->", re.DOTALL)


def test_nothing_can_be_served_that_is_not_in_the_catalog() -> None:
    samples = Samples()
    with pytest.raises(KeyError, match="crossfeed_new"):
        samples.add("crossfeed_new", 1)
    with pytest.raises(KeyError, match="has the labels"):
        samples.add("crossfeed_dead_letters", 1)
    with pytest.raises(KeyError, match="has the labels"):
        samples.add("crossfeed_epoch", 1, direction="to_cosmos")
    assert list(samples.collect()) == []


def test_every_metric_of_the_catalog_is_explained_and_well_named() -> None:
    for name, fact in CATALOG.items():
        assert name == fact.name
        assert re.fullmatch(r"crossfeed_[a-z_]+", name)
        assert fact.help.endswith(".")
        assert fact.processes
        assert (fact.kind is Kind.COUNTER) == name.endswith("_total")


def test_every_counter_of_relay_and_cache_is_a_metric() -> None:
    counters = {f"crossfeed_relay_{one.name}_total" for one in fields(RelayStats) if one.type == "int"}
    counters |= {f"crossfeed_cache_{one.name}_total" for one in fields(CacheStats) if one.name != "breaker"}
    assert counters <= CATALOG.keys()
    others = {name for name in CATALOG if name.startswith(("crossfeed_relay_", "crossfeed_cache_"))} - counters
    assert not any(name.endswith("_total") for name in others)


def test_the_readme_has_the_metrics() -> None:
    assert BLOCK.search(README.read_text())


def test_the_readmes_metrics_are_current() -> None:
    for block in BLOCK.findall(README.read_text()):
        assert block.strip() == as_markdown().strip(), f"put this there:\n{as_markdown()}"


def test_the_table_is_markdown() -> None:
    lines = as_markdown().splitlines()
    assert len(lines) == len(CATALOG) + 2
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in lines)
