"""Charts as SVG inside an HTML page: the page's style sheet gives the colours, tooltips show the values."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from molstream.pipeline.shards.histograms import Bar, share

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 50, 8, 10, 40
"""Margins of a bar chart, which hold the numbers and names of the axes."""
CHARACTER = 6.5
"""Greatest width of a character of the axes."""


@dataclass(frozen=True)
class Flow:
    """Rows with one outcome."""

    label: str
    count: int
    kind: str
    """Class of the style sheet: written, duplicates, decontaminated or rejected."""


def bar_chart(title: str, bars: Sequence[Bar], x_axis: str, y_axis: str, log: bool = False) -> str:
    """A histogram, in the given order.

    Args:
        title: description for screen readers.
        log: count on a logarithmic scale, which makes small counts visible.
    """
    most = max((bar.count for bar in bars), default=0)
    ticks = _log_ticks(most) if log else _ticks(most)
    top = ticks[-1]
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    bottom, slot = HEIGHT - BOTTOM, plot_width / max(1, len(bars))
    parts = []
    for tick in ticks:
        y = bottom - plot_height * _height(tick, top, log)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{_short(tick)}</text>')
    crowd = (max((len(bar.tick) for bar in bars), default=1) + 1) * CHARACTER / slot
    every = next(every for every in (1, 2, 3, 5, 10, 20, 50, 100) if every >= crowd)
    for k, bar in enumerate(bars):
        x, height = LEFT + k * slot, plot_height * _height(bar.count, top, log)
        if bar.count:
            # A bar that is too low to be seen would look like a count of 0.
            height = max(height, 1.0)
        tip = f"<title>{escape(bar.label)}: {bar.count:,} {escape(y_axis)}</title>"
        parts.append(
            f'<rect class="bar" x="{x + 0.08 * slot:.1f}" width="{0.84 * slot:.1f}" y="{bottom - height:.1f}" '
            f'height="{height:.1f}">{tip}</rect>'
        )
        # The whole column shows the tooltip, also over a low bar.
        parts.append(
            f'<rect class="column" x="{x:.1f}" width="{slot:.1f}" y="{TOP}" height="{plot_height}">{tip}</rect>'
        )
        if bar.number % every == 0:
            parts.append(
                f'<text x="{x + slot / 2:.1f}" y="{bottom + 14}" text-anchor="middle">{escape(bar.tick)}</text>'
            )
    middle = TOP + plot_height / 2
    scale = ", log scale" if log else ""
    parts.append(
        f'<text class="axis" x="{LEFT + plot_width / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(x_axis)}</text>"
    )
    parts.append(
        f'<text class="axis" transform="translate(11 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_axis)}{scale}</text>"
    )
    return _svg("chart", WIDTH, HEIGHT, f"Histogram of {title}", parts)


def flow_chart(total: int, flows: Sequence[Flow]) -> str:
    """A Sankey chart: all rows on the left, their outcomes on the right, ribbons as wide as their number of rows."""
    width, slot, height, first, last = 330, 38, 160, 14, 118
    thick = [max(1.5, height * flow.count / max(1, total)) for flow in flows]
    parts = []
    y_in, y_out = 20.0, 20.0
    start = y_in
    for flow, size in zip(flows, thick):
        left = height * flow.count / max(1, total)
        middle = (first + last) / 2
        place = y_out + (max(slot, size) - size) / 2
        text = f"{flow.label}: {flow.count:,} rows, {share(flow.count, total)}"
        parts.append(
            f'<path class="ribbon {flow.kind}" d="M{first} {y_in:.1f}C{middle} {y_in:.1f} {middle} {place:.1f} {last} '
            f"{place:.1f}V{place + size:.1f}C{middle} {place + size:.1f} {middle} {y_in + left:.1f} {first} "
            f'{y_in + left:.1f}Z"><title>{escape(text)}</title></path>'
            f'<rect class="{flow.kind}" x="{last}" width="6" y="{place:.1f}" height="{size:.1f}"/>'
            f'<text class="name" x="{last + 12}" y="{place + size / 2 - 2:.1f}">{escape(flow.label)}</text>'
            f'<text x="{last + 12}" y="{place + size / 2 + 13:.1f}">{flow.count:,} ({escape(share(flow.count, total))})'
            "</text>"
        )
        y_in, y_out = y_in + left, y_out + max(slot, size)
    parts.append(f'<rect class="all" x="8" width="6" y="{start}" height="{y_in - start:.1f}"/>')
    parts.append(f'<text class="name" x="8" y="13">{total:,} rows in</text>')
    return _svg("flow", width, math.ceil(max(y_in, y_out)) + 6, f"What became of {total:,} rows", parts)


def _svg(kind: str, width: int, height: int, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _height(value: float, top: float, log: bool) -> float:
    """The height of a bar as a fraction of the highest tick."""
    if not log:
        return value / top
    return (math.log10(value) + 0.5) / (math.log10(top) + 0.5) if value else 0.0


def _ticks(most: int) -> list[int]:
    """Two to six round numbers from 0 to at least ``most``."""
    step = next(step for step in _round_numbers() if 5 * step >= most)
    return [k * step for k in range(max(1, -(-most // step)) + 1)]


def _log_ticks(most: int) -> list[int]:
    """Powers of ten from 1 to at least ``most``, at most seven of them."""
    powers = range(max(1, math.ceil(math.log10(max(1, most)))) + 1)
    return [10**power for power in powers if (powers[-1] - power) % max(1, math.ceil(len(powers) / 7)) == 0]


def _round_numbers() -> Iterator[int]:
    size = 1
    while True:
        yield from (size, 2 * size, 5 * size)
        size *= 10


def _short(value: int) -> str:
    """A number of at most six characters: ``1.5k``, ``20M``."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return str(value)
