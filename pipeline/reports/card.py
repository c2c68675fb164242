"""The card of a dataset: one HTML page that says what it holds, what was left out and why, and what it cost.

The page needs no network and no script. It is a function of the committed dataset alone, except for the section on
times. Its cost does not grow with the molecules: it reads a few blocks, the manifest, and examples of rejections.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from molstream.io.files import write_atomically
from molstream.io.reading import read_json
from molstream.pipeline.config import SandboxConfig
from molstream.pipeline.reports.charts import Flow, bar_chart, flow_chart
from molstream.pipeline.reports.rejections import examples, shown
from molstream.pipeline.sandbox.parent import Sandbox
from molstream.pipeline.shards.distributions import Distribution
from molstream.pipeline.shards.histograms import QUANTITIES, Bar, bars, element_bars, seconds, share, size, time_bars
from molstream.pipeline.shards.manifest import Manifest
from molstream.pipeline.shards.reader import ShardDataset
from molstream.pipeline.stages.tally import Timing
from molstream.preprocessing.config import FeaturizeConfig

NAME = "card.html"
TIMING = "timing.json"

GRID = 24
"""Most molecules of the dataset that are drawn."""
EXAMPLES = 4
"""Most rejected rows that are shown for each reason."""
DRAWN_LENGTH = 1000
"""Most characters of a SMILES that is drawn; a longer one has more atoms than a drawing shows."""
DRAWN_BLOCK = 50_000
"""Most characters of a mol block that is drawn."""
TEXT_LENGTH = 200
"""Most characters of an input that are shown."""
LISTED = 100
"""Most lines of a table of files."""
BARS, ELEMENTS = 40, 20
"""Most bars of a histogram, and of the chart of elements."""
DRAWING = SandboxConfig(deadline_s=2.0)
"""Limits of a drawing, which takes milliseconds; a molecule that exceeds them is shown without one."""


@dataclass(frozen=True)
class Chart:
    """A histogram as a drawing and, for those who cannot see or hover, as its bars."""

    title: str
    svg: str
    bars: Sequence[Bar]
    axis: str
    counted: str


@dataclass(frozen=True)
class Picture:
    """A molecule of the card: its drawing and the texts below it."""

    drawing: str | None
    """The image as a data URL; None if the molecule cannot be drawn."""
    text: str
    """The input's text, as it is shown."""
    note: str
    """The line below the text."""
    detail: str = ""


def write_card(folder: Path) -> Path:
    """Write ``card.html`` into the folder of a committed dataset; returns its path.

    Raises:
        DataError: the folder is no committed dataset, or a damaged one.
    """
    import jinja2
    from markupsafe import Markup

    dataset = ShardDataset(folder)
    manifest, timing = dataset.manifest, read_timing(folder)
    with Sandbox(DRAWING, FeaturizeConfig()) as sandbox:
        grid = _pictures(sandbox, _spread(dataset))
        rejected = _rejected(sandbox, folder, manifest)
        slowest = timing and _pictures(sandbox, [(text, seconds(time), "") for time, text in timing.slowest])
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"seconds": seconds, "size": size, "svg": Markup, "number": "{:,}".format}
    template = (Path(__file__).parent / "templates" / "card.html.jinja").read_text("utf-8")
    page = environment.from_string(template).render(
        manifest=manifest,
        name=_name(manifest),
        bytes=sum(shard.bytes for shard in manifest.shards),
        atoms=sum(shard.atoms for shard in manifest.shards),
        share=share,
        flow=flow_chart(manifest.counts.rows_in, flows(manifest)),
        charts=_charts(manifest),
        grid=grid,
        rejected=rejected,
        timing=timing,
        times=timing and _time_chart(timing),
        slowest=slowest,
        settings=_flat(manifest.config["settings"]),
        benchmarks=[(name, files) for name, files in manifest.config["benchmarks"].items()],
        listed=LISTED,
        described=described(manifest),
        targeted=targeted(manifest),
    )
    target = folder / NAME
    write_atomically(target, page.encode())
    return target


def read_timing(folder: Path) -> Timing | None:
    """The CPU times that the dataset took, from timing.json; None if there is no such file.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / TIMING
    if not path.is_file():
        return None
    shape = {"describe_s": float, "embed_s": float, "histogram": dict, "slowest": [list]}
    return Timing.from_dict(read_json(path, shape, "Remove it; it is not needed."))


def flows(manifest: Manifest) -> list[Flow]:
    """The rows of the input by their outcome: written, dropped, or rejected, the most frequent reason first."""
    counts = manifest.counts
    found = [
        Flow("written", counts.written, "written"),
        Flow("duplicates", counts.duplicates, "duplicates"),
        Flow("decontaminated", counts.decontaminated, "decontaminated"),
    ]
    found += [Flow(f"rejected: {reason}", count, "rejected") for reason, count in by_count(counts.rejected)]
    return [flow for flow in found if flow.count or flow.kind == "written"]


def by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Names and counts, the largest count first; equal counts are sorted by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def described(manifest: Manifest) -> str:
    """Number of descriptors, and the share of their values that are missing; ``none`` where there are none."""
    count = len(manifest.descriptor_names)
    return f"{count}, {_missing(manifest.descriptor_statistics)}" if count else "none"


def targeted(manifest: Manifest) -> str:
    """Names of the targets, and the share of their values that are missing; ``none`` where there are none."""
    names = ", ".join(manifest.target_names)
    return f"{names}; {_missing(manifest.target_statistics)}" if manifest.target_statistics else names or "none"


def _missing(statistics: Mapping[str, Distribution]) -> str:
    counts = statistics.values()
    missing, known = sum(each.missing for each in counts), sum(each.known for each in counts)
    return f"{share(missing, missing + known)} of their values missing"


def _name(manifest: Manifest) -> str:
    """Title of the card, from the input: the folder may be renamed, and the card must not depend on its name."""
    names = [Path(source["name"]).name for source in manifest.config["sources"]]
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return f"{shown(names[0], 80)}{more}"


def _charts(manifest: Manifest) -> list[Chart]:
    found = []
    for name, quantity in QUANTITIES.items():
        if counts := manifest.histograms.get(name):
            shape = bars(counts, quantity.step, BARS)
            svg = bar_chart(quantity.title, shape, quantity.axis, quantity.counted)
            found.append(Chart(quantity.title, svg, shape, quantity.axis, quantity.counted))
    if counts := manifest.histograms.get("elements"):
        shape = element_bars(counts, ELEMENTS)
        svg = bar_chart("elements", shape, "element", "atoms", log=True)
        found.append(Chart("elements", svg, shape, "element", "atoms"))
    return found


def _time_chart(timing: Timing) -> Chart | None:
    if not (shape := time_bars(timing.histogram)):
        return None
    axis = "CPU time of a molecule"
    return Chart("time", bar_chart("times", shape, axis, "molecules", log=True), shape, axis, "molecules")


def _spread(dataset: ShardDataset) -> list[tuple[str, str, str]]:
    """Molecules at even distances in the dataset, as (SMILES, place in the input, empty detail)."""
    count = min(GRID, dataset.num_rows)
    if not count:
        return []
    positions = np.arange(count) * dataset.num_rows // count
    rows = dataset.read_rows(positions, ("smiles", "source", "row")).values
    return [
        (str(smiles), f"{source}:{row}", "") for smiles, source, row in zip(rows["smiles"], rows["source"], rows["row"])
    ]


def _rejected(sandbox: Sandbox, folder: Path, manifest: Manifest) -> list[tuple[str, int, list[Picture]]]:
    """Reason, count and examples of the rejections, the most frequent reason first."""
    found = examples(folder, manifest, EXAMPLES)
    return [
        (
            reason,
            count,
            _pictures(
                sandbox,
                [
                    (row["text"], f"{row['source']}:{row['row']}", f"{row['stage']}: {row['detail']}")
                    for row in found[reason]
                ],
            ),
        )
        for reason, count in by_count(manifest.counts.rejected)
    ]


def _pictures(sandbox: Sandbox, molecules: Sequence[tuple[str, str, str]]) -> list[Picture]:
    """Drawings of texts, each with a note and a detail, where they are SMILES or mol blocks that can be drawn."""
    wanted = [_drawn(text) for text, _, _ in molecules]
    drawable = [text for text in wanted if text and len(text) <= (DRAWN_BLOCK if "\n" in text else DRAWN_LENGTH)]
    drawings = dict(zip(drawable, sandbox.draw(drawable), strict=True))
    return [
        Picture(_address(drawings.get(key)), _text(text), shown(note, 120), shown(detail, TEXT_LENGTH))
        for key, (text, note, detail) in zip(wanted, molecules)
    ]


def _drawn(text: str) -> str:
    """The SMILES or mol block that may be drawn of an input; a geometry record begins with its SMILES."""
    if "\n" in text:
        return text
    geometry = re.match(r'\{"smiles": ?("(?:[^"\\]|\\.)*")', text)
    return json.loads(geometry[1]) if geometry else text.strip()


def _text(text: str) -> str:
    cut = shown(text, TEXT_LENGTH, lines=True)
    return f"{cut} ({len(text):,} characters)" if len(text) > TEXT_LENGTH else cut


def _address(svg: str | None) -> str | None:
    """The SVG as a data URL of an image, whose content cannot act on the page."""
    return svg and "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings under dotted names, as they are given on the command line."""
    found = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, shown(value if isinstance(value, str) else json.dumps(value), TEXT_LENGTH)))
    return found
