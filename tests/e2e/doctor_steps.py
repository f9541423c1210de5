"""Asks the doctor as a script does, for the tests of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.e2e.conftest import Run

NAMES = [
    "settings", "mappings", "http", "tls", "postgres", "cosmos", "schema", "tables", "triggers", "rights", "phase",
    "relay", "mirror", "canaries", "dead letters", "parity", "containers", "access", "clocks", "announced", "history",
    "cache", "functions",
]  # fmt: skip
"""All questions in the order of every report, whatever could be asked."""


@dataclass(frozen=True)
class Report:
    """What the doctor said."""

    code: int
    checks: dict[str, dict[str, Any]]
    text: str

    @property
    def problems(self) -> list[str]:
        """The questions whose answer is a problem."""
        return [name for name, check in self.checks.items() if check["status"] == "problem"]

    def found(self, name: str, what: str, cure: str, level: str = "problem") -> dict[str, Any]:
        """Return the one finding of a question that says this and names this cure."""
        findings = self.checks[name]["findings"]
        [finding] = [one for one in findings if what in one["what"] and cure in one["run"] and one["level"] == level]
        assert all(finding[part] for part in ("what", "where", "why", "run"))
        assert self.code == (1 if self.problems else 0)
        return dict(finding)


def diagnosis(run: Run, *arguments: str, **changed: str | None) -> Report:
    """Run `crossfeed doctor --json` with the test's own stores, or with what replaces their settings."""
    code, output, errors = run("doctor", "--json", *arguments, **changed)
    assert errors == ""
    facts = json.loads(output)
    assert [check["name"] for check in facts["checks"]] == NAMES
    assert facts["format"] == 1
    assert facts["healthy"] == (code == 0)
    for check in facts["checks"]:
        assert set(check) == {"name", "status", "detail", "findings"}
        assert check["status"] in {"ok", "warning", "problem", "skipped"}
        assert bool(check["findings"]) == (check["status"] in {"warning", "problem"})
        for finding in check["findings"]:
            assert set(finding) == {"level", "what", "where", "why", "run"}
    return Report(code, {check["name"]: check for check in facts["checks"]}, output)
