"""The pictures of the benchmark: plain SVG, the same bytes for the same figures."""

from collections.abc import Mapping, Sequence
from html import escape

# Colour-blind safe (Okabe and Ito); ours first.
COLOURS = ("#0072b2", "#d55e00", "#e69f00", "#cc79a7", "#009e73", "#56b4e9", "#777777")
_WIDTH = 860
_LEFT = 230
_RIGHT = 20
_FONT = "font-family='sans-serif' font-size='12'"


def dots(
    title: str, rows: Sequence[str], values: Mapping[str, Sequence[float | None]], *, limit: float
) -> str:
    """Return a row of dots for each scenario: a judge is a colour, percent is to the right.

    Args:
        title: Above all.
        rows: Names of the scenarios.
        values: Judge -> percent for each row; None where it was not measured.
        limit: A line at so many percent.
    """
    top = 40 + 18 * ((len(values) + 2) // 3)
    height = top + 22 * len(rows) + 40
    largest = max([v for each in values.values() for v in each if v is not None] + [10.0])
    place = lambda value: _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value / largest) ** 0.5  # noqa: E731
    parts = _head(title, list(values), height)
    parts.append(_line(place(limit), top - 6, place(limit), height - 34, "#444", dashed=True))
    for tick in (0, 1, 5, 10, 20, 40, 60, 80, 100):
        if tick <= largest:
            parts.append(_text(place(tick), height - 16, f"{tick} %", anchor="middle"))
    for index, row in enumerate(rows):
        y = top + 22 * index + 8
        parts += [
            _line(_LEFT, y, _WIDTH - _RIGHT, y, "#ddd"),
            _text(_LEFT - 10, y + 4, row, anchor="end"),
        ]
        for number, judge in reversed(list(enumerate(values))):
            value = values[judge][index]
            if value is not None:
                parts.append(
                    f"<circle cx='{place(value):.1f}' cy='{y}' r='{6 if number == 0 else 4}' "
                    f"fill='{COLOURS[number]}'/>"
                )
    return _done(parts)


def curves(title: str, alarms: Mapping[str, Sequence[float | None]], *, minutes: int) -> str:
    """Return how many percent of bad models each judge has found, minute by minute."""
    top, bottom = 40 + 18 * ((len(alarms) + 2) // 3), 380
    parts = _head(title, list(alarms), bottom + 50)
    x = lambda minute: 60 + (_WIDTH - 60 - _RIGHT) * minute / minutes  # noqa: E731
    y = lambda share: bottom - (bottom - top) * share  # noqa: E731
    for percent in (0, 25, 50, 75, 100):
        parts += [
            _line(60, y(percent / 100), _WIDTH - _RIGHT, y(percent / 100), "#ddd"),
            _text(52, y(percent / 100) + 4, f"{percent} %", anchor="end"),
        ]
    for minute in range(0, minutes + 1, 20):
        parts.append(_text(x(minute), bottom + 18, str(minute), anchor="middle"))
    parts.append(_text(_WIDTH / 2, bottom + 38, "minutes since the step began", anchor="middle"))
    for number, times in reversed(list(enumerate(alarms.values()))):
        found = [
            sum(time is not None and time <= minute for time in times) / len(times)
            for minute in range(minutes + 1)
        ]
        points = " ".join(f"{x(m):.1f},{y(share):.1f}" for m, share in enumerate(found))
        parts.append(
            f"<polyline points='{points}' fill='none' stroke='{COLOURS[number]}' "
            f"stroke-width='{3 if number == 0 else 1.5}'/>"
        )
    return _done(parts)


def bars(title: str, groups: Sequence[str], values: Mapping[str, Sequence[float]]) -> str:
    """Return a bar for each judge in each group, in percent."""
    top = 40 + 18 * ((len(values) + 2) // 3)
    tall = 14 * len(values) + 14
    parts = _head(title, list(values), top + tall * len(groups) + 20)
    place = lambda percent: (_WIDTH - _LEFT - 70) * percent / 100.0  # noqa: E731
    for index, group in enumerate(groups):
        y = top + tall * index
        parts.append(_text(_LEFT - 10, y + tall / 2, group, anchor="end"))
        for number, judge in enumerate(values):
            percent = values[judge][index]
            parts += [
                f"<rect x='{_LEFT}' y='{y + 14 * number}' width='{place(percent):.1f}' height='11' "
                f"fill='{COLOURS[number]}'/>",
                _text(_LEFT + place(percent) + 6, y + 14 * number + 10, f"{percent:.0f} %"),
            ]
    return _done(parts)


def _head(title: str, judges: Sequence[str], height: float) -> list[str]:
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height:.0f}' {_FONT}>",
        f"<rect width='{_WIDTH}' height='{height:.0f}' fill='white'/>",
        f"<text x='10' y='20' font-size='15' font-weight='bold'>{escape(title)}</text>",
    ]
    for number, judge in enumerate(judges):
        x, y = 10 + 280 * (number % 3), 40 + 18 * (number // 3)
        parts += [
            f"<rect x='{x}' y='{y - 9}' width='10' height='10' fill='{COLOURS[number]}'/>",
            _text(x + 16, y, judge),
        ]
    return parts


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(text)}</text>"


def _line(x: float, y: float, x2: float, y2: float, colour: str, *, dashed: bool = False) -> str:
    dash = " stroke-dasharray='4 3'" if dashed else ""
    return f"<line x1='{x:.1f}' y1='{y:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}'{dash}/>"


def _done(parts: list[str]) -> str:
    return "\n".join([*parts, "</svg>", ""])
