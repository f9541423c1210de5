"""Renders the dead letters, with the form that replays and discards them where that is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from functions.letters import Act
from functions.page.acting import ELSEWHERE
from functions.page.markup import NOTHING, ago, command, joined, note, section, table
from functions.page.sections import NAMES
from functions.page.spelling import count_of

if TYPE_CHECKING:
    from core.postgres.dead_letters import Direction
    from functions.letters import Report
    from functions.page.access import Refusal
    from functions.page.overview import Overview, ShownLetter

TITLE: Final = "Dead letters"
_DONE: Final = {Act.REPLAY: "Replayed", Act.DISCARD: "Discarded"}


def letters(overview: Overview, refused: Refusal | None, replays: frozenset[Direction]) -> Markup:
    """Render the letters.

    Args:
        overview: which there are.
        refused: why nobody may act here; None if who has the token may.
        replays: the directions whose letters this process may replay.

    """
    if not overview.letters:
        return NOTHING
    shown, in_all = len(overview.letters), overview.letters_in_all
    aside = note(f"the oldest {shown} of {in_all:,}") if in_all > shown else NOTHING
    rows = [_row(overview, one, refused, replays) for one in overview.letters]
    found = table(TITLE, ("Number", "What", "Why", "When"), rows, "stacked")
    if refused is not None:
        how = Markup('<p class="quiet">{} Or in a terminal: {} {}</p>').format(
            refused.value,
            command("crossfeed dead-letters replay NUMBER"),
            command("crossfeed dead-letters discard NUMBER"),
        )
        return section(TITLE, found + how, aside)
    form = Markup('<form method="post" id="letters">{}{}<input type="hidden" name="until" value="{}"></form>')
    return section(TITLE, form.format(found, _BUTTONS, overview.at.isoformat()), aside)


_BUTTONS: Final = Markup(
    '<div class="acts">'
    '<input type="text" name="user" value="crossfeed" autocomplete="username" hidden>'
    '<label>Token <input type="password" name="token" required autocomplete="current-password"></label>'
    '<button name="act" value="replay">Replay the chosen</button>'
    '<details id="discard"><summary>Discard…</summary><div class="careful">'
    "<p>Deletes the chosen letters, and the documents that they hold. Nothing brings them back.</p>"
    '<button name="act" value="discard" class="danger">Discard the chosen for good</button></div></details></div>'
)


def _row(
    overview: Overview, shown: ShownLetter, refused: Refusal | None, replays: frozenset[Direction]
) -> tuple[Markup, ...]:
    letter = shown.letter
    number = Markup("{}").format(letter.number)
    if refused is None:
        number = Markup('<label class="choice"><input type="checkbox" name="number" value="{}"> {}</label>').format(
            letter.number, letter.number
        )
    identity = letter.identity
    reference = Markup("<br>{}").format(note(letter.reference)) if letter.reference else NOTHING
    what = Markup('<b class="any">{}</b> <span class="any">{}</span>{}<br>{}').format(
        identity.entity, identity.id, reference, note(f"{NAMES[letter.direction]}, {letter.kind}")
    )
    obstacle = shown.obstacle or (None if letter.direction in replays else ELSEWHERE[letter.direction])
    why = Markup('<span class="any">{}</span>').format(letter.reason)
    if obstacle is not None and refused is None:
        why += Markup("<br>{}").format(note(f"Replay: {obstacle}."))
    tries = note(count_of(letter.attempts, "attempt"))
    age_s = (overview.at - letter.last_at).total_seconds()
    return number, what, why, Markup("{}<br>{}").format(ago(max(0.0, age_s)), tries)


def outcome(act: Act, report: Report) -> Markup:
    """Render what became of the letters that were chosen."""
    left = joined(
        Markup('<li>{}: <span class="any">{}</span></li>').format(number, why) for number, why in report.refused.items()
    )
    said = f"{_DONE[act]} {count_of(len(report.done), 'dead letter')}"
    said += f"; {len(report.refused)} stay" if report.refused else ""
    return saying(f"{said}.", is_good=not report.refused, more=Markup("<ul>{}</ul>").format(left) if left else NOTHING)


def saying(what: str, *, is_good: bool, more: Markup = NOTHING) -> Markup:
    """Render what became of a request."""
    kind = "ok" if is_good else "look"
    return Markup('<div class="outcome {}" role="status"><p>{}</p>{}</div>').format(kind, what, more)
