"""Spells phases, plans and reports in lines for people; scripts read the same facts as JSON."""

from __future__ import annotations

from typing import Any

Facts = dict[str, Any]


def lines_of_standing(facts: Facts) -> list[str]:
    """Return the phase, what is wrong with it, and who may write to Cosmos DB."""
    lines = [" ".join(f"{name}={facts[name]}" for name in ("phase", "epoch", "state", "primary"))]
    if (switch := facts["switch"]) is not None:
        lines.append(
            f"switch {switch['switch']} from {switch['from']} to {switch['to']}: {switch['step']},"
            f" since {switch['started_at']}, by {switch['who']}: {switch['why']}"
        )
    lines += [f"PROBLEM: {problem}" for problem in facts["problems"]]
    lines += [f"may write to Cosmos DB: {writer['name']}, for {writer['left_s']} s" for writer in facts["writers"]]
    return lines


def lines_of_plan(facts: Facts) -> list[str]:
    """Return what a step would do, and its checks."""
    return [
        f"{facts['from_phase']} to {facts['to_phase']}:",
        *(f"  {number}. {what}" for number, what in enumerate(facts["does"], 1)),
        *_lines_of_checks(facts["checks"]),
        "nothing refuses it" if facts["is_possible"] else "refused",
    ]


def lines_of_report(facts: Facts) -> list[str]:
    """Return how a step went."""
    lines = _lines_of_checks(facts["checks"])
    lines.append(f"{facts['from_phase']} to {facts['to_phase']}: {facts['outcome']}, epoch {facts['epoch']}")
    if facts["pause_ms"] is not None:
        lines.append(f"writers waited {facts['pause_ms']:.0f} ms")
    return lines


def lines_of_history(facts: Facts) -> list[str]:
    """Return a line for each step."""
    return [
        f"{step['at']}  epoch {step['epoch']}  {step['phase']}  {_of_switch(step['switch'])}"
        f"{step['who']}: {step['why']}"
        for step in facts["steps"]
    ]


def _of_switch(switch: Facts | None) -> str:
    if switch is None:
        return ""
    pause = (switch["report"] or {}).get("pause_ms")
    waited = f", writers waited {pause:.0f} ms" if pause is not None else ""
    return f"(switch from {switch['from']} to {switch['to']}: {switch['step']}{waited})  "


def _lines_of_checks(checks: list[Facts]) -> list[str]:
    lines = []
    for check in checks:
        lines.append(f"  {'ok     ' if check['ok'] else 'REFUSES'} {check['name']}: {check['detail']}")
        if not check["ok"]:
            lines.append(f"          cure: {check['cure']}")
    return lines
