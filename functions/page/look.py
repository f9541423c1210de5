"""What one look at an installation has found, or why it has found nothing: what pages are rendered from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from functions.page.problems import Severity

if TYPE_CHECKING:
    from functions.page.overview import Overview
    from functions.page.problems import Problem


@dataclass(frozen=True, slots=True)
class Look:
    """How everything stands, and what is wrong with it.

    Args:
        overview: what was read last; None if nothing was ever read.
        problems: what is broken first.
        is_old: whether Postgres did not answer this time, so that the overview is of before.

    """

    overview: Overview | None
    problems: tuple[Problem, ...]
    is_old: bool = False

    @property
    def worst(self) -> Severity | None:
        """How bad the worst problem is; None if there is none."""
        return self.problems[0].severity if self.problems else None

    def facts(self) -> dict[str, Any]:
        """Return it as values that orjson knows."""
        known = {} if self.overview is None else self.overview.facts()
        problems = [
            {"severity": one.severity.value, "what": one.what, "cure": one.cure or None} for one in self.problems
        ]
        return {"ok": self.worst is not Severity.BROKEN, "problems": problems, "is_old": self.is_old, **known}
