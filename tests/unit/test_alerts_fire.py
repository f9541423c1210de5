"""Prometheus' own promtool says which alerts fire on which figures; where it is not installed, that is said."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

RULES = Path(__file__).parents[2] / "deploy/prometheus/alerts.yml"
AT = "110m"

Series = dict[str, str]
"""Values by the minute, by the series, as promtool spells them: `0x10` is eleven zeros, `0+2x5` grows by two."""

PHASE = 'crossfeed_phase{job="j",phase="dual_write_cosmos_read"}'

CASES: dict[str, tuple[Series, Series]] = {
    "CrossfeedIsSilent": ({"up": "1x120"}, {"crossfeed_ready": "0x120"}),
    "CrossfeedNotReady": ({"crossfeed_ready": "1x100 0x20"}, {"crossfeed_ready": "1x108 0x20"}),
    "CrossfeedDoesNotCross": (
        {
            'crossfeed_canary_age_seconds{direction="to_cosmos"}': "91x120",
            'crossfeed_canary_age_seconds{direction="to_postgres"}': "179x120",
        },
        {
            'crossfeed_canary_age_seconds{direction="to_cosmos"}': "89x120",
            'crossfeed_canary_age_seconds{direction="to_postgres"}': "179x120",
        },
    ),
    "CrossfeedFallsBehind": (
        {'crossfeed_lag_seconds{direction="to_cosmos"}': "31x120"},
        {'crossfeed_lag_seconds{direction="to_cosmos"}': "31x99 2 31x20"},
    ),
    "CrossfeedSlotsUnowned": ({"crossfeed_slots_unowned": "3x120"}, {"crossfeed_slots_unowned": "3x108 0x20"}),
    "CrossfeedFeedRangesUnowned": (
        {"crossfeed_feed_ranges_unowned": "1x120"},
        {"crossfeed_feed_ranges_unowned": "0x109 1x20"},
    ),
    "CrossfeedTriggerFails": (
        {'crossfeed_trigger_failing_seconds{function="f"}': "0+60x120"},
        {'crossfeed_trigger_failing_seconds{function="f"}': "100x120"},
    ),
    "CrossfeedThrottled": (
        {"crossfeed_cosmos_throttled_total": "0+120x120"},
        {"crossfeed_cosmos_throttled_total": "0+30x120"},
    ),
    "CrossfeedBreakerOpen": (
        {'crossfeed_cosmos_breaker{container="c"}': "2x120"},
        {'crossfeed_cosmos_breaker{container="c"}': "1x120"},
    ),
    "CrossfeedLogIsHeld": (
        {"crossfeed_outbox_retention_held_seconds": "0+60x120"},
        {"crossfeed_outbox_retention_held_seconds": "3000x120"},
    ),
    "CrossfeedLogOverflows": (
        {"crossfeed_outbox_overflow_bytes": "200000000x120"},
        {"crossfeed_outbox_overflow_bytes": "8192x120"},
    ),
    "CrossfeedDeadLetters": (
        {'crossfeed_dead_letters{direction="to_cosmos"}': "1x120"},
        {'crossfeed_dead_letters{direction="to_cosmos"}': "1x100 0x20"},
    ),
    "CrossfeedDeadLettersPour": (
        {'crossfeed_dead_letters{direction="to_cosmos"}': "0x99 0+10x20"},
        {'crossfeed_dead_letters{direction="to_cosmos"}': "500x120"},
    ),
    "CrossfeedParkedForgotten": (
        {"crossfeed_mirror_parked_overdue_seconds": "61x120"},
        {"crossfeed_mirror_parked_overdue_seconds": "59x120"},
    ),
    "CrossfeedStoresDiffer": (
        {'crossfeed_parity_differences{entity="e"}': "2x120"},
        {'crossfeed_parity_differences{entity="e"}': "0x120"},
    ),
    "CrossfeedNotCompared": (
        {'crossfeed_parity_age_seconds{entity="e",job="j"}': "172801x120", PHASE: "1x120"},
        {'crossfeed_parity_age_seconds{entity="e",job="j"}': "172801x120", PHASE: "0x120"},
    ),
    "CrossfeedForeignWriter": (
        {'crossfeed_feed_outcomes_total{applier="mirror",outcome="quarantined"}': "0x105 1x20"},
        {'crossfeed_feed_outcomes_total{applier="mirror",outcome="applied"}': "0+9x120"},
    ),
    "CrossfeedWritersRefused": ({"crossfeed_draining_seconds": "0x109 31x9"}, {"crossfeed_draining_seconds": "2x120"}),
    "CrossfeedSwitchUnfinished": ({"crossfeed_switch_seconds": "0+60x120"}, {"crossfeed_switch_seconds": "60x120"}),
    "CrossfeedPhasesDisagree": (
        {
            'crossfeed_phase{job="j",instance="a",phase="cosmos_only"}': "1x120",
            'crossfeed_phase{job="j",instance="b",phase="cosmos_only"}': "0x120",
            'crossfeed_phase{job="j",instance="b",phase="postgres_only"}': "1x120",
        },
        {
            'crossfeed_phase{job="j",instance="a",phase="postgres_only"}': "1x120",
            'crossfeed_phase{job="j",instance="b",phase="postgres_only"}': "1x120",
            'crossfeed_phase{job="j",instance="b",phase="cosmos_only"}': "0x120",
        },
    ),
    "CrossfeedShadowReadsDiffer": (
        {
            'crossfeed_shadow_reads_total{result="compared"}': "0+100x120",
            'crossfeed_shadow_reads_total{result="mismatched"}': "0+1x120",
        },
        {
            'crossfeed_shadow_reads_total{result="compared"}': "0+100x120",
            'crossfeed_shadow_reads_total{result="mismatched"}': "0x120",
        },
    ),
    "CrossfeedCacheAway": ({"crossfeed_cache_breaker": "2x120"}, {"crossfeed_cache_breaker": "0x120"}),
    "CrossfeedInvalidationsLost": (
        {"crossfeed_cache_invalidations_lost_total": "0+1x120"},
        {"crossfeed_cache_invalidations_lost_total": "7x120"},
    ),
}


def promtool(*arguments: str) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def case(name: str, series: Mapping[str, str], *, fires: bool) -> dict[str, Any]:
    firing = [{"labels": "{}", "value": 1}] if fires else []
    return {
        "name": f"{name} {'fires' if fires else 'is silent'}",
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(count by (alertname) (ALERTS{{alertname="{name}",alertstate="firing"}}))',
                "eval_time": AT,
                "exp_samples": firing,
            }
        ],
    }


def test_every_rule_has_figures_on_which_it_fires_and_others_on_which_it_does_not() -> None:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    assert CASES.keys() == {rule["alert"] for group in groups for rule in group["rules"]}


def test_promtool_accepts_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(RULES))


def test_every_alert_fires_when_it_should_and_not_otherwise(tmp_path: Path) -> None:
    tests = [
        case(name, series, fires=fires)
        for name, both in CASES.items()
        for series, fires in zip(both, (True, False), strict=True)
    ]
    file = tmp_path / "alerts_test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", str(file))
