"""Looks for known vulnerabilities in what is locked, and for secrets in what is committed: `make check`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from tests.security.audit import LOCK, audit
from tests.security.leaked import LISTED, ROOT, committed, listed, scan
from tests.security.verdict import Checked, worst

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)
_CHECKS = ("audit", "secrets")


@app.command()
def security(
    which: Annotated[list[str] | None, typer.Argument(help="audit, secrets; both by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Exit with 0 if all was looked at and nothing found, 1 if something was, 3 if no source could be reached."""
    wanted = which or list(_CHECKS)
    if unknown := sorted(set(wanted) - set(_CHECKS)):
        msg = f"no such check: {', '.join(unknown)}"
        raise typer.BadParameter(msg)
    checks: dict[str, Checked] = {}
    if "secrets" in wanted:
        checks["secrets"] = scan(ROOT, committed(ROOT), listed(LISTED.read_text()))
    if "audit" in wanted:
        checks["audit"] = audit(LOCK.read_text())
    if as_json:
        print(json.dumps({name: _facts(one) for name, one in checks.items()}))
    else:
        for name, one in checks.items():
            print(f"{name}: {one.summary}", *one.lines, sep="\n  ")
    sys.exit(worst(list(checks.values())))


def _facts(one: Checked) -> dict[str, object]:
    return {"verdict": one.verdict.name.lower(), "summary": one.summary, "found": one.lines}


if __name__ == "__main__":
    app()
