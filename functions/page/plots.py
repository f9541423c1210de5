"""Draws a quarter of an hour as SVG, without a script: lag as a line, throughput as bars."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from core.postgres.samples import WINDOW_S
from functions.page.markup import joined
from functions.page.spelling import duration, rate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WIDTH: Final = 600.0
_HEIGHT: Final = 100.0
_ROOM: Final = 1.05
"""How much higher than its highest value a plot is."""

Values = tuple[float | None, ...]


def lag_plot(lag_s: Values, limit_s: float, where: str) -> Markup:
    """Draw lag in seconds, with a line at the limit where that is in sight.

    Args:
        lag_s: the worst of each bin, the oldest first.
        limit_s: what readiness calls too much.
        where: the direction, for who cannot see it.

    """
    worst = max((value for value in lag_s if value is not None), default=0.0)
    top = max(worst * _ROOM, 1.0)
    label = f"Lag {where} over the last {WINDOW_S // 60} minutes, at worst {duration(worst)}"
    drawn = _gaps(lag_s) + joined(_line(run, top, len(lag_s)) for run in _runs(lag_s))
    if limit_s < top:
        height = _height(limit_s, top)
        drawn += Markup('<line class="limit" x1="0" x2="{}" y1="{}" y2="{}"/>').format(f"{_WIDTH:g}", height, height)
    return _figure(label, drawn, duration(top / _ROOM if worst else top))


def rate_plot(per_s: Values, where: str) -> Markup:
    """Draw changes per second.

    Args:
        per_s: of each bin, the oldest first.
        where: the direction, for who cannot see it.

    """
    most = max((value for value in per_s if value is not None), default=0.0)
    top = max(most * _ROOM, 1.0)
    label = f"Throughput {where} over the last {WINDOW_S // 60} minutes, at most {rate(most)}"
    width = _WIDTH / len(per_s)
    bars = joined(
        Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"/>').format(
            _number(place * width), _height(value, top), _number(width - 2), _number(_HEIGHT * value / top)
        )
        for place, value in enumerate(per_s)
        if value
    )
    return _figure(label, _gaps(per_s) + bars, rate(most or top))


def _figure(label: str, drawn: Markup, top: str) -> Markup:
    # One that is stretched to the room there is: what is written stands beside it.
    return Markup(
        '<figure class="plot"><svg viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
        '<figcaption aria-hidden="true"><span>{} min ago</span><span class="top">{}</span><span>now</span></figcaption>'
        "</figure>"
    ).format(f"{_WIDTH:g}", f"{_HEIGHT:g}", label, drawn, WINDOW_S // 60, top)


def _line(run: Sequence[tuple[int, float]], top: float, bins: int) -> Markup:
    """Draw values without a gap between them; one alone is as wide as its bin."""
    width = _WIDTH / bins
    points = [(place * width + width / 2, value) for place, value in run]
    if len(points) == 1:
        [(middle, value)] = points
        points = [(middle - width / 2, value), (middle + width / 2, value)]
    drawn = " ".join(f"{_number(x)},{_height(value, top)}" for x, value in points)
    first, last = _number(points[0][0]), _number(points[-1][0])
    ground = f"{_HEIGHT:g}"
    return Markup('<polygon class="area" points="{},{} {} {},{}"/><polyline class="line" points="{}"/>').format(
        first, ground, drawn, last, ground, drawn
    )


def _gaps(values: Values) -> Markup:
    """Shade where nobody wrote samples: that is not the same as nothing."""
    width = _WIDTH / len(values)
    return joined(
        Markup('<rect class="gap" x="{}" y="0" width="{}" height="{}"/>').format(
            _number(place * width), _number(width), f"{_HEIGHT:g}"
        )
        for place, value in enumerate(values)
        if value is None
    )


def _runs(values: Values) -> Iterator[list[tuple[int, float]]]:
    """Yield what lies between gaps, each value with its place."""
    for is_gap, found in groupby(enumerate(values), key=lambda item: item[1] is None):
        if not is_gap:
            yield [(place, value) for place, value in found if value is not None]


def _height(value: float, top: float) -> str:
    return _number(_HEIGHT * (1 - min(value, top) / top))


def _number(value: float) -> str:
    return f"{value:.1f}"
