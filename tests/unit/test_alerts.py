"""Alert rules and dashboard say what an operator needs: a threshold, for how long, how bad, and what to do."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import typer
import yaml

from core.metric_catalog import CATALOG
from core.postgres.canaries import most_age_s
from core.postgres.dead_letters import Direction
from core.settings import Settings
from functions.cli import app
from tests.promql import read

ROOT = Path(__file__).parents[2]
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
BOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/crossfeed.json").read_text(encoding="utf-8"))
BY_NAME = {rule["alert"]: rule for rule in RULES}


def threshold_of(name: str, arm: str | None = None) -> float:
    """Return what a rule compares with; of one that is an `or`, on this side (`lhs`, `rhs`)."""
    expression = promql_parser.parse(BY_NAME[name]["expr"])
    assert isinstance(expression, promql_parser.BinaryExpr)
    if arm is not None:
        expression = getattr(expression, arm)
        assert isinstance(expression, promql_parser.BinaryExpr)
    assert isinstance(expression.rhs, promql_parser.NumberLiteral)
    return expression.rhs.val


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_rule_says_how_long_how_bad_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Crossfeed[A-Z]\w+", rule["alert"])
    assert re.fullmatch(r"\d+[smh]", rule["for"])
    assert set(rule["labels"]) == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "runbook"}
    assert all(text.endswith(".") for text in rule["annotations"].values())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_label_that_a_rule_mentions_is_one_that_its_alert_has(rule: dict[str, Any]) -> None:
    left = read(rule["expr"]).labels
    assert set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values()))) <= left


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_command_and_setting_that_a_runbook_names_exists(rule: dict[str, Any]) -> None:
    text = " ".join(rule["annotations"].values())
    for name in re.findall(r"CROSSFEED_(\w+)", (ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8")):
        assert name.lower() in Settings.model_fields, name
    commands = typer.main.get_command(app)
    for spelled in re.findall(r"`crossfeed ([a-z -]+)`", text):
        known: Any = commands
        for word in spelled.split():
            if word.startswith("-"):
                assert any(word in option.opts for option in known.params), spelled
            else:
                known = known.commands[word]


def test_rules_have_names_of_their_own() -> None:
    assert len(BY_NAME) == len(RULES)


def test_thresholds_that_follow_settings_follow_their_defaults() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    max_lag_s = defaults["relay_max_lag_s"]
    assert max_lag_s == defaults["mirror_max_lag_s"]
    for arm, direction in (("lhs", Direction.TO_COSMOS), ("rhs", Direction.TO_POSTGRES)):
        most_s = most_age_s(direction, max_lag_s, defaults["canary_every_s"])
        assert threshold_of("CrossfeedDoesNotCross", arm) == most_s
    assert threshold_of("CrossfeedFallsBehind") == max_lag_s / 2
    assert threshold_of("CrossfeedTriggerFails") < defaults["functions_max_lag_s"]
    for name in ("CrossfeedSlotsUnowned", "CrossfeedFeedRangesUnowned"):
        assert BY_NAME[name]["for"] == "2m"  # several times the two lease times in which others take over
    assert 2 * max(defaults["relay_lease_s"], defaults["mirror_lease_s"]) < 60


def test_what_wakes_somebody_is_that_nothing_crosses_or_nobody_may_write() -> None:
    assert {name for name, rule in BY_NAME.items() if rule["labels"]["severity"] == "critical"} == {
        "CrossfeedIsSilent",
        "CrossfeedNotReady",
        "CrossfeedDoesNotCross",
        "CrossfeedSlotsUnowned",
        "CrossfeedFeedRangesUnowned",
        "CrossfeedTriggerFails",
        "CrossfeedBreakerOpen",
        "CrossfeedDeadLettersPour",
        "CrossfeedWritersRefused",
        "CrossfeedPhasesDisagree",
    }


def test_the_dashboard_shows_every_metric() -> None:
    shown = {
        selected.name
        for panel in BOARD["panels"]
        for target in panel.get("targets", ())
        for selected in read(target["expr"]).selected
    }
    assert shown == CATALOG.keys()


def test_every_panel_has_its_place_a_title_and_an_explanation() -> None:
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert taken.isdisjoint(cells), panel["title"]
        taken |= cells
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["targets"]
    rows = [panel["gridPos"]["y"] for panel in panels if panel["type"] == "row"]
    assert all(upper < lower for upper, lower in pairwise(rows))


def test_legends_name_labels_that_their_samples_have() -> None:
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            left = read(target["expr"]).labels
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= left, panel["title"]


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("max by (container) (crossfeed_epoch)", {"container"}),
        ("crossfeed_epoch and on (slot) crossfeed_ready", {"slot"}),
        ("max by (feed) (max by (range) (crossfeed_feed_lag_seconds))", {"feed"}),
    ],
)
def test_grouping_by_a_label_that_is_not_there_is_found(expression: str, wrong: set[str]) -> None:
    assert read(expression).unknown == wrong


@pytest.mark.parametrize("expression", ["rate(crossfeed_epoch)", "sum by (", "max by (job) (crossfeed_epoch[5m])"])
def test_what_prometheus_would_refuse_is_found(expression: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(expression)
