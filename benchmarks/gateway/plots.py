"""Plots as SVG: bars on a logarithmic scale, and lines."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH = 720
LEFT = 170
RIGHT = 80
TOP = 44
BAR = 20
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#a463f2", "#9c6b4e")


class Bar(NamedTuple):
    """One bar, perhaps of two pieces."""

    label: str
    value: float
    more: float = 0.0
    """What stands behind the first piece, lighter."""
    is_ours: bool = False


class Line(NamedTuple):
    """One line of points."""

    label: str
    points: Sequence[tuple[float, float]]


def bars(title: str, unit: str, rows: Sequence[Bar]) -> str:
    """Return bars on a logarithmic scale, each with its figure."""
    low = 10 ** math.floor(math.log10(min(row.value for row in rows)))
    high = 10 ** math.ceil(math.log10(max(row.value + row.more for row in rows)))
    height = TOP + len(rows) * (BAR + 10) + 30

    def x(value: float) -> float:
        share = math.log(value / low) / math.log(high / low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    parts = [_text(10, 24, title, size=15)]
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = x(10.0**power)
        parts.append(f'<line x1="{at:.1f}" y1="{TOP - 8}" x2="{at:.1f}" y2="{height - 26}" stroke="#ddd"/>')
        parts.append(_text(at, height - 10, f"{10.0**power:,g} {unit}", anchor="middle", colour="#666"))
    for number, row in enumerate(rows):
        y = TOP + number * (BAR + 10)
        colour = COLOURS[0] if row.is_ours else "#9aa5b1"
        parts.append(_text(LEFT - 8, y + 15, row.label, anchor="end"))
        parts.append(_rect(LEFT, y, x(row.value) - LEFT, colour))
        if row.more:
            parts.append(_rect(x(row.value), y, x(row.value + row.more) - x(row.value), colour, opacity=0.45))
        figure = f"{row.value:,.0f}" + (f" + {row.more:,.0f}" if row.more else "")
        parts.append(_text(x(row.value + row.more) + 6, y + 15, figure))
    return _svg(height, parts)


def lines(
    title: str, x_title: str, y_title: str, rows: Sequence[Line], names: Mapping[float, str] | None = None
) -> str:
    """Return lines on linear scales that begin at zero; *names* are what stands below the points, if not their x."""
    height, bottom = 360, 310
    most_x = max(x for row in rows for x, _ in row.points) or 1.0
    most_y = _round_up(max(y for row in rows for _, y in row.points))

    def place(x: float, y: float) -> tuple[float, float]:
        return 70 + x / most_x * (WIDTH - 70 - 150), bottom - y / most_y * (bottom - TOP)

    parts = [_text(10, 24, title, size=15), _text(70, bottom + 40, x_title, colour="#666")]
    for step in range(6):
        level = most_y * step / 5
        y = place(0, level)[1]
        parts.append(f'<line x1="70" y1="{y:.1f}" x2="{WIDTH - 150}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(64, y + 4, f"{level:,g} {y_title}", anchor="end", colour="#666"))
    marks = (names or {x: f"{x:,g}" for row in rows for x, _ in row.points}).items()
    parts.extend(_text(place(x, 0)[0], bottom + 18, text, anchor="middle", colour="#666") for x, text in marks)
    for row, colour in zip(rows, COLOURS, strict=False):
        places = [place(*point) for point in row.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)
    parts += _legend(rows)
    return _svg(height, parts)


def _legend(rows: Sequence[Line]) -> Iterator[str]:
    for number, (row, colour) in enumerate(zip(rows, COLOURS, strict=False)):
        y = TOP + 20 * number
        yield f'<rect x="{WIDTH - 140}" y="{y - 9}" width="10" height="10" fill="{colour}"/>'
        yield _text(WIDTH - 124, y, row.label)


def _round_up(value: float) -> float:
    """Return a number that is a little higher and can be divided by five without many digits."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value)


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", colour: str = "#222") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(text)}</text>"


def _rect(x: float, y: float, width: float, colour: str, *, opacity: float = 1.0) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{BAR}"'
    return f'<rect {place} fill="{colour}" fill-opacity="{opacity:g}"/>'


def _svg(height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" font-family="sans-serif">'
    background = f'<rect width="{WIDTH}" height="{height:g}" fill="#fff"/>'
    return "\n".join([head, background, *parts, "</svg>", ""])
