"""Makes HTML that is safe by construction: markup is literal, and whatever is put into it is escaped.

Markup("…") is only ever called with a literal (ruff S704 refuses anything else); its `format` escapes every value that
is no Markup itself. So a reason, an id or the name of a host can hold what it likes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from functions.page.spelling import duration, moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

NOTHING = Markup()


def joined(parts: Iterable[Markup]) -> Markup:
    """Return the parts one after the other."""
    return NOTHING.join(parts)


def command(line: str) -> Markup:
    """Return a command to copy."""
    return Markup('<code class="command">{}</code>').format(line)


def commands(lines: Iterable[str]) -> Markup:
    """Return several of them."""
    return Markup(" ").join(command(line) for line in lines)


def ago(seconds: float) -> Markup:
    """Return how long ago something was."""
    return Markup('<span class="quiet short">{} ago</span>').format(duration(seconds))


def time_of(at: datetime) -> Markup:
    """Return a moment, for people and programs."""
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(timespec="seconds"), moment(at))


def section(title: str, body: Markup, note: Markup = NOTHING) -> Markup:
    """Return a part of the page with its heading, and a quiet note beside that."""
    return Markup("<section><h2>{} {}</h2>{}</section>").format(title, note, body)


def note(text: str) -> Markup:
    """Return words that stand back."""
    return Markup('<span class="quiet">{}</span>').format(text)


def paragraph(text: str) -> Markup:
    """Return a sentence that stands back."""
    return Markup('<p class="quiet">{}</p>').format(text)


def table(name: str, headings: Sequence[str], rows: Iterable[Sequence[str | Markup]], kind: str = "") -> Markup:
    """Return a table that scrolls by itself where the screen is narrow.

    Args:
        name: of the table, for who cannot see it.
        headings: of its columns; one that begins with > is of numbers.
        rows: cells; what is no Markup is escaped.
        kind: how it looks where the screen is narrow.

    """
    numeric = [heading.startswith(">") for heading in headings]
    head = joined(
        Markup('<th scope="col" class="{}">{}</th>').format("number" if is_number else "", heading.removeprefix(">"))
        for heading, is_number in zip(headings, numeric, strict=True)
    )
    body = joined(Markup("<tr>{}</tr>").format(joined(_cells(row, numeric))) for row in rows)
    return Markup(
        '<div class="wide {}" tabindex="0" role="region" aria-label="{}"><table>'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(kind, name, head, body)


def _cells(row: Sequence[str | Markup], numeric: Sequence[bool]) -> Iterable[Markup]:
    for cell, is_number in zip(row, numeric, strict=True):
        yield Markup('<td class="{}">{}</td>').format("number" if is_number else "", cell)
