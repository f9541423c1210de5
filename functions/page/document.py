"""Puts the page together: one document with its style and its few lines of script in it, and nothing from elsewhere."""

from __future__ import annotations

import base64
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from functions.page import letters, sections, tables
from functions.page.markup import NOTHING, joined, time_of
from functions.page.problems import Severity

if TYPE_CHECKING:
    from core.postgres.dead_letters import Direction
    from core.settings import Settings
    from functions.page.access import Refusal
    from functions.page.look import Look

EVERY_S: Final = 5
"""How often the page looks again by itself, in seconds; without a script more rarely."""
_WITHOUT_SCRIPT_S: Final = 30

_ICONS: Final = {None: "%230f7b3f", Severity.LOOK: "%23b07400", Severity.BROKEN: "%23c62828"}

_PAGE: Final = Markup(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>{title}</title>
<link rel="icon" href="{icon}">
{refresh}<style>{style}</style>
</head>
<body data-every="{every}">
<header><h1>Crossfeed</h1><p id="who">{who}</p><p id="when">{when}</p>
<button type="button" id="pause" hidden aria-pressed="false">Pause</button></header>
<div id="outcome">{outcome}</div>
<main>{main}</main>
<script>{script}</script>
</body>
</html>
"""
)
_ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Ccircle cx='8' cy='8' r='7' fill='{}'/%3E%3C/svg%3E"
)
_REFRESH: Final = Markup('<noscript><meta http-equiv="refresh" content="{}"></noscript>\n')


def render(  # noqa: PLR0913 - what a page is made of
    look: Look,
    settings: Settings,
    who: str,
    *,
    refused: Refusal | None,
    replays: frozenset[Direction],
    outcome: Markup = NOTHING,
) -> bytes:
    """Return the page.

    Args:
        look: what it shows.
        settings: what lag is too much.
        who: the process that serves it.
        refused: why nobody may act here; None if who has the token may.
        replays: the directions whose letters this process may replay.
        outcome: what became of a request.

    """
    overview = look.overview
    parts = [sections.verdict(look)]
    has_form = False
    if overview is not None:
        has_form = refused is None and bool(overview.letters)
        parts += [
            sections.stores(overview, settings),
            sections.figures(overview),
            sections.flows(overview, settings),
            letters.letters(overview, refused, replays),
            sections.phase(overview),
            tables.carriers(overview),
            tables.parity(overview),
            tables.last_switch(overview),
        ]
    state = sections.headline(look)
    return (
        _PAGE.format(
            title=f"{state} · Crossfeed" if overview is None else f"{state} · {overview.standing.row.phase.label}",
            icon=_ICON.format(_ICONS[look.worst]),
            # What somebody types must not be wiped away; with a script it is not.
            refresh=NOTHING if has_form else _REFRESH.format(_WITHOUT_SCRIPT_S),
            style=_style(),
            script=_script(),
            every=EVERY_S,
            who=who,
            when=NOTHING if overview is None else time_of(overview.at),
            outcome=outcome,
            main=joined(parts),
        )
    ).encode("utf-8", "replace")


@cache
def policy() -> str:
    """Return the Content-Security-Policy: this very style and script, and nothing else."""
    return (
        f"default-src 'none'; style-src '{_hash(_style())}'; script-src '{_hash(_script())}'; img-src data:;"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


@cache
def _style() -> Markup:
    return Markup(_asset("page.css"))  # noqa: S704 - a file of ours


@cache
def _script() -> Markup:
    return Markup(_asset("page.js"))  # noqa: S704 - a file of ours


def _asset(name: str) -> str:
    return files("functions.page").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"
