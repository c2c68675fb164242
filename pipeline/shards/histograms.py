"""Histograms of the manifest and the timing as bins and quantiles for people, and numbers with units."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from molstream.pipeline.stages.tally import ENERGY_BIN

TAILS = (0.005, 0.995)
"""Quantiles between which a long histogram is shown; its first and last bin count everything outside."""


@dataclass(frozen=True)
class Quantity:
    """The quantity that a histogram counts by."""

    title: str
    axis: str
    """Name of the axis: the quantity with its unit."""
    counted: str
    """The things that are counted, such as molecules."""
    unit: str = ""
    step: int = 1
    """Width of the bins that are stored."""


QUANTITIES = {
    "heavy_atoms": Quantity("heavy atoms", "heavy atoms of a molecule", "molecules"),
    "rotatable_bonds": Quantity("rotatable bonds", "rotatable bonds of a molecule", "molecules"),
    "rings": Quantity("rings", "rings of a molecule", "molecules"),
    "energy": Quantity("energy", "energy of the lowest conformer in kcal/mol", "molecules", "kcal/mol", ENERGY_BIN),
}
"""The histograms of numbers in a manifest, in the order in which they are shown."""


_SECONDS = ((1e6, "us"), (1e3, "ms"), (1.0, "s"))
_TIMES = ((60, 1, ("min", "s")), (3600, 60, ("h", "min")), (86400, 3600, ("d", "h")))


@dataclass(frozen=True)
class Bar:
    """One bar of a chart."""

    label: str
    """The value or range that is counted, in full."""
    tick: str
    """Short label below the bar, if there is room."""
    count: int
    number: int
    """Number of the bar on an endless axis; bars with round numbers get their ticks first."""


def quantiles(histogram: Mapping[str, int], shares: Sequence[float]) -> list[int]:
    """For every share, the smallest value that this share of the counts does not exceed; empty for no counts."""
    counts = _numbers(histogram)
    total = sum(count for _, count in counts)
    found = []
    for share in shares if total else ():
        seen = 0
        for value, count in counts:
            seen += count
            if seen >= share * total:
                found.append(value)
                break
    return found


def bars(histogram: Mapping[str, int], step: int, most: int) -> list[Bar]:
    """At most ``most`` adjacent bins of equal, round width; rare values at both ends may share one."""
    if not (counts := _numbers(histogram)):
        return []
    low, high = counts[0][0], counts[-1][0]
    if (high - low) // step >= most:
        low, high = quantiles(histogram, TAILS)
    width = next(width for width in _widths(step) if high // width - low // width < most)
    first, last = low // width, high // width
    found: Counter[int] = Counter()
    for value, count in counts:
        found[min(max(value // width, first), last)] += count
    names = {k: _range(k * width, width, step) for k in range(first, last + 1)}
    if counts[-1][0] // width > last:
        names[last] = f"{last * width} and more"
    if counts[0][0] // width < first:
        names[first] = f"less than {(first + 1) * width}"
    return [Bar(names[k], str(k * width), found[k], k) for k in range(first, last + 1)]


def element_bars(histogram: Mapping[str, int], most: int) -> list[Bar]:
    """The most frequent elements first; the rest share a bar."""
    ranked = sorted(histogram.items(), key=lambda item: (-item[1], item[0]))
    found = [Bar(name, name, count, k) for k, (name, count) in enumerate(ranked[:most])]
    if rest := ranked[most:]:
        names = ", ".join([found[-1].label, *(name for name, _ in rest)])
        found[-1] = Bar(names, "...", found[-1].count + sum(count for _, count in rest), most - 1)
    return found


def time_bars(histogram: Mapping[str, int]) -> list[Bar]:
    """Seconds per molecule: key k is 10^(k/3) to 10^((k+1)/3) seconds, as in ``Timing``."""
    counts = dict(_numbers(histogram))
    keys = range(min(counts), max(counts) + 1) if counts else ()
    return [
        Bar(f"{seconds(10 ** (k / 3))} to {seconds(10 ** ((k + 1) / 3))}", seconds(10 ** (k / 3)), counts.get(k, 0), k)
        for k in keys
    ]


def seconds(value: float) -> str:
    """A time with units that suit it: ``40 us``, ``1.2 ms``, ``3.4 s``, ``5 min 20 s``, ``2 h 3 min``, ``4 d 1 h``."""
    if value < 99.5:
        factor, unit = next(scale for scale in _SECONDS if value * scale[0] < 999.5)
        return f"{value * factor:.{0 if value * factor >= 9.95 else 1}f} {unit}"
    large, small, names = next(parts for parts in _TIMES if value < 100 * parts[0] or parts is _TIMES[-1])
    whole, rest = divmod(round(value / small), large // small)
    return f"{whole:,} {names[0]} {rest} {names[1]}"


def size(value: float) -> str:
    """A number of bytes with a unit that suits it: ``812.4 MiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def share(part: float, whole: float) -> str:
    """A part in percent, never rounded to nothing or to all."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def _numbers(histogram: Mapping[str, int]) -> list[tuple[int, int]]:
    return sorted((int(value), count) for value, count in histogram.items())


def _widths(step: int) -> Iterator[int]:
    """Round widths: 1, 2, 5, 10, 20, ... steps."""
    while True:
        yield from (step, 2 * step, 5 * step)
        step *= 10


def _range(low: int, width: int, step: int) -> str:
    if width == 1:
        return str(low)
    return f"{low} to {low + width - 1 if step == 1 else low + width}"
