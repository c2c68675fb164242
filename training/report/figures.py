"""Figures of the HTML reports, drawn with matplotlib."""

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from molstream.training.evaluation.gallery import COLOURS, draw
from molstream.training.metrics.records import Record
from molstream.training.run.history import Launch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROGRESS = {
    "optim/lr": "learning rate",
    "optim/grad_norm": "gradient norm",
    "throughput/molecules_per_s": "molecules/s",
    "throughput/molecules_per_s_and_process": "molecules/s and process",
    "throughput/data_wait": "share of waiting for data",
    "data/padding": "share of padding",
}
RUN_COLOURS = ("#1f5a96", "#c8772b", "#3a8a5f", "#a13d63", "#6b5ca5", "#7a7a7a")


def figure(columns: int, rows: int = 1) -> "tuple[Figure, list[Any]]":
    """Create a figure with panels in columns and rows, and return it with its axes in reading order."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(3.6 * columns, 2.7 * rows), layout="constrained")
    return fig, list(np.ravel(fig.subplots(rows, columns, squeeze=False)))


def image(fig: "Figure") -> str:
    """Convert a figure to a data URL, for an inlined image."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def plot_losses(runs: Mapping[str, Sequence[Record]], launches: Sequence[Launch] = ()) -> "Figure":
    """Plot the terms of the training loss against the step, of one run with its launches marked, or of several."""
    names = list(dict.fromkeys(k for records in runs.values() for r in records for k in r if k.startswith("train/")))
    return _curves(runs, {name: name.removeprefix("train/") for name in names}, launches)


def plot_progress(runs: Mapping[str, Sequence[Record]], launches: Sequence[Launch] = ()) -> "Figure":
    """Plot learning rate, gradient norm, throughput, waiting time and padding against the step."""
    return _curves(runs, PROGRESS, launches)


def _curves(runs: Mapping[str, Sequence[Record]], panels: Mapping[str, str], launches: Sequence[Launch]) -> "Figure":
    fig, axes = figure(3, -(-len(panels) // 3))
    for axis, (name, title) in zip(axes, panels.items()):
        for (run, records), colour in zip(runs.items(), cycle(RUN_COLOURS)):
            shown = [record for record in records if name in record]
            steps, values = np.array([r["step"] for r in shown]), np.array([r[name] for r in shown])
            if len(runs) == 1:
                axis.plot(steps, values, color="#b9c6d3", linewidth=0.8)
            axis.plot(*_smooth(steps, values), color=colour, linewidth=1.4, label=run)
        _mark(axis, launches)
        axis.set(title=title, xlabel="step")
    if len(runs) > 1:
        axes[0].legend(fontsize="small")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    return fig


def _smooth(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean over a fiftieth of the records up to each; what is not finite is left out."""
    if not len(values):
        return steps, values
    window = np.ones(max(1, len(values) // 50))
    finite = np.isfinite(values)
    counts = np.convolve(finite, window, mode="valid")
    sums = np.convolve(np.where(finite, values, 0.0), window, mode="valid")
    return steps[len(window) - 1 :], np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _mark(axis: "Axes", launches: Sequence[Launch]) -> None:
    """Mark the start of launches, changes of the number of processes, and repeated steps."""
    world_size = 0
    for launch in launches if len(launches) > 1 else ():
        if launch.step > 0:
            axis.axvline(launch.step, color="#c8772b", linewidth=0.7, linestyle="--")
        if launch.recorded > launch.step:
            axis.axvspan(launch.step, launch.recorded, color="#c8772b", alpha=0.15, linewidth=0)
        if launch.world_size != world_size:
            world_size = launch.world_size
            place = {"transform": axis.get_xaxis_transform(), "va": "top", "fontsize": "x-small", "color": "#c8772b"}
            axis.text(launch.step, 0.98, f" {world_size}", **place)


def plot_dataset(dataset: dict[str, Any]) -> "Figure":
    """Plot the histograms of a dataset's manifest."""
    histograms = dataset["histograms"]
    fig, axes = figure(len(histograms))
    for axis, (name, histogram) in zip(axes, histograms.items()):
        # Numeric bins are placed on a numeric axis; names are sorted by count.
        numeric = all(str(key).lstrip("-").isdigit() for key in histogram)
        items = sorted(histogram.items(), key=(lambda kv: int(kv[0])) if numeric else (lambda kv: -kv[1]))[:60]
        axis.bar([int(k) if numeric else k for k, _ in items], [v for _, v in items], color="#1f5a96")
        axis.set(title=name.replace("_", " "), ylabel="count", yscale="linear" if numeric else "log")
    return fig


def plot_evaluation(evaluation: dict[str, Any]) -> "Figure":
    """Plot the score of each representation with its interval: a column for each folding, a row for each task."""
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for folding in evaluation["foldings"]:
        for entry in folding["compared"]:
            panels.setdefault((entry["task"], folding["folding"]), []).append(entry)
    columns = max(1, len({folding for _, folding in panels}))
    fig, axes = figure(columns, max(1, -(-len(panels) // columns)))
    order = {task: number for number, task in enumerate(dict.fromkeys(task for task, _ in panels))}
    for axis, ((task, folding), entries) in zip(axes, sorted(panels.items(), key=lambda item: order[item[0][0]])):
        means, low, high = (np.array([entry[key] for entry in entries], float) for key in ("mean", "low", "high"))
        places = np.arange(len(entries))[::-1]
        axis.hlines(places, low, high, color="#1f5a96", linewidth=1.4)
        axis.plot(means, places, "o", color="#1f5a96", markersize=4)
        axis.set_yticks(places, [entry["representation"] for entry in entries])
        axis.set(title=f"{task}, {folding} folds", xlabel=entries[0]["metric"])
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    return fig


def plot_gallery(gallery: list[list[Any]]) -> "Figure":
    """Draw the gallery: a column per molecule, a row per method, over the reference."""
    fig, axes = figure(len(gallery), max(len(row) for row in gallery) - 1)
    for axis in axes:
        axis.set_axis_off()
    grid = np.reshape(axes, (-1, len(gallery)))
    for column, (reference, *others) in enumerate(gallery):
        for axis, other, colour in zip(grid[:, column], others, COLOURS):
            draw(axis, reference, other, colour)
    return fig


def plot_deciles(deciles: dict[str, list[dict[str, Any]]]) -> "Figure":
    """Plot the denoising losses by diffusion time."""
    fig, axes = figure(len(deciles))
    for axis, (name, parts) in zip(axes, deciles.items()):
        heights = [part["loss"] or 0.0 for part in parts]
        places = [(number + 0.5) / len(parts) for number in range(len(parts))]
        axis.bar(places, heights, width=0.9 / len(parts), color="#1f5a96")
        axis.set(title=name.replace("_", " "), xlabel="diffusion time", ylabel="mean loss")
    return fig
