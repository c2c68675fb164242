"""The report of a run: one self-contained HTML page with plots, and a short table for the terminal."""

import base64
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import MISSING
from rich.console import Console
from rich.table import Table

from pipeline.config import compose, to_yaml
from preprocessing.errors import ConfigError, DataError, MolstreamError
from training.diagnose import FILE as DIAGNOSTICS
from training.evaluate_generated import GENERATED
from training.gallery import COLOURS, draw, read_gallery
from training.metrics import read_metrics
from training.run import RunDirectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ReportConfig:
    """`molstream report`: what the page tells."""

    run_dir: str = MISSING
    """The pretraining run."""
    output: str | None = None
    """HTML file; `report.html` inside the run directory by default."""
    evaluation: str | None = None
    """JSON of `molstream evaluate`; `eval.json` inside the run directory is taken where it exists."""
    embeddings: str | None = None
    """Parquet of `molstream embed`, whose rows are counted."""


@dataclass(frozen=True)
class Story:
    """What a run directory tells."""

    name: str
    config_yaml: str
    dataset: dict[str, Any]
    environment: dict[str, Any]
    records: list[dict[str, float]]
    evaluation: dict[str, Any] | None
    diagnostics: dict[str, Any] | None
    """JSON of `molstream diagnose`, where it was run."""
    generated: dict[str, dict[str, Any]]
    """JSON of `molstream evaluate conformers` and `bonds`, where they were run."""
    gallery: list[list[Any]]
    """Molecules of the former, see :func:`training.gallery.read_gallery`."""
    embedded: tuple[int, int] | None
    """Rows of the embeddings file, and how many of them failed."""

    def loss(self) -> tuple[float, float]:
        """Mean training loss over the first and over the last twentieth of the steps."""
        losses = [record["train/loss"] for record in self.records]
        part = max(1, len(losses) // 20)
        return float(np.mean(losses[:part])), float(np.mean(losses[-part:]))


def read_story(config: ReportConfig) -> Story:
    """Everything the report needs.

    Raises:
        ConfigError: ``run_dir`` is no run.
        DataError: it has no recorded step yet, or a file that was named is missing.
    """
    run = RunDirectory(config.run_dir)
    pretrain = run.config()
    if not (records := read_metrics(run.path)):
        raise DataError(f"{run.path} has no recorded step yet: train it for at least one log interval.")
    evaluation = Path(config.evaluation) if config.evaluation else run.path / "eval.json"
    if config.evaluation and not evaluation.is_file():
        raise DataError(f"evaluation={evaluation}: no such file. Write it with `molstream evaluate output=...`.")
    diagnostics = run.path / DIAGNOSTICS
    generated = {name: run.path / f"{name}.json" for name in GENERATED}
    gallery = generated["conformers"].with_suffix(".sdf")
    return Story(
        name=run.path.resolve().name,
        config_yaml=to_yaml(pretrain),
        dataset=run.dataset(),
        environment=json.loads((run.path / "environment.json").read_text()),
        records=records,
        evaluation=json.loads(evaluation.read_text()) if evaluation.is_file() else None,
        diagnostics=json.loads(diagnostics.read_text()) if diagnostics.is_file() else None,
        generated={name: json.loads(file.read_text()) for name, file in generated.items() if file.is_file()},
        gallery=read_gallery(gallery) if gallery.is_file() else [],
        embedded=_count_embeddings(config.embeddings),
    )


def write_report(story: Story, output: Path) -> None:
    """Render the page; images are inlined, so that it opens anywhere, offline."""
    import jinja2

    template = (Path(__file__).parent / "report.html.jinja").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    before, after = story.loss()
    page = environment.from_string(template).render(
        story=story,
        before=before,
        after=after,
        losses=_image(_plot_losses(story.records)),
        progress=_image(_plot_progress(story.records)),
        histograms=_image(_plot_dataset(story.dataset)),
        evaluation=_image(_plot_evaluation(story.evaluation)) if story.evaluation else None,
        deciles=_image(_plot_deciles(story.diagnostics["deciles"])) if story.diagnostics else None,
        gallery=_image(_plot_gallery(story.gallery)) if story.gallery else None,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page)


def summary(story: Story) -> Table:
    """The run in a few lines for a terminal."""
    counts, (before, after) = story.dataset["counts"], story.loss()
    rejected = sum(counts["rejected"].values())
    table = Table(title=f"run {story.name}", show_header=False)
    table.add_row("molecules in", f"{counts['in']:,}")
    table.add_row("written", f"{counts['written']:,}")
    table.add_row("rejected", f"{rejected:,}")
    table.add_row("duplicates", f"{counts['duplicates']:,}")
    table.add_row("steps", f"{len(story.records):,}")
    table.add_row("loss before -> after", f"{before:.4f} -> {after:.4f}")
    if story.embedded:
        table.add_row("embeddings written", f"{story.embedded[0] - story.embedded[1]:,} ({story.embedded[1]} failed)")
    return table


def _count_embeddings(path: str | None) -> tuple[int, int] | None:
    if path is None:
        return None
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise DataError(f"embeddings={path}: no such file. Write it with `molstream embed output=...`.")
    reasons = pq.read_table(path, columns=["failure"])["failure"]
    return len(reasons), len(reasons) - reasons.null_count


def _figure(columns: int, rows: int = 1) -> "tuple[Figure, list[Any]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * columns, 2.7 * rows), layout="constrained")
    return figure, list(np.ravel(figure.subplots(rows, columns, squeeze=False)))


def _image(figure: "Figure") -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _plot_losses(records: Sequence[dict[str, float]]) -> "Figure":
    names = [name for name in records[0] if name.startswith("train/")]
    figure, axes = _figure(3, -(-len(names) // 3))
    steps = [record["step"] for record in records]
    for axis, name in zip(axes, names):
        values = np.array([record[name] for record in records])
        width = max(1, len(values) // 50)
        axis.plot(steps, values, color="#b9c6d3", linewidth=0.8)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axis.plot(steps[width - 1 :], smooth, color="#1f5a96", linewidth=1.4)
        axis.set(title=name.removeprefix("train/"), xlabel="step")
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    return figure


def _plot_progress(records: Sequence[dict[str, float]]) -> "Figure":
    panels = (
        ("optim/lr", "learning rate"),
        ("optim/grad_norm", "gradient norm"),
        ("throughput/molecules_per_s", "molecules/s"),
    )
    figure, axes = _figure(len(panels))
    for axis, (name, title) in zip(axes, panels):
        axis.plot([r["step"] for r in records], [r[name] for r in records], color="#1f5a96", linewidth=1)
        axis.set(title=title, xlabel="step")
    return figure


def _plot_dataset(dataset: dict[str, Any]) -> "Figure":
    histograms = dataset["histograms"]
    figure, axes = _figure(len(histograms))
    for axis, (name, histogram) in zip(axes, histograms.items()):
        # Numeric bins lie on an axis of numbers; names are sorted by count.
        numeric = all(str(key).lstrip("-").isdigit() for key in histogram)
        items = sorted(histogram.items(), key=(lambda kv: int(kv[0])) if numeric else (lambda kv: -kv[1]))[:60]
        axis.bar([int(k) if numeric else k for k, _ in items], [v for _, v in items], color="#1f5a96")
        axis.set(title=name.replace("_", " "), ylabel="count", yscale="linear" if numeric else "log")
    return figure


def _plot_evaluation(evaluation: dict[str, Any]) -> "Figure":
    figure, (axis,) = _figure(1)
    scores = evaluation["scores"]
    axis.barh([s["representation"] for s in scores][::-1], [s["rmse"] for s in scores][::-1], color="#1f5a96")
    axis.set(title=f"{evaluation['target']}, {evaluation['split']}", xlabel="test RMSE")
    return figure


def _plot_gallery(gallery: list[list[Any]]) -> "Figure":
    figure, axes = _figure(len(gallery), max(len(row) for row in gallery) - 1)
    for axis in axes:
        axis.set_axis_off()
    grid = np.reshape(axes, (-1, len(gallery)))
    for column, (reference, *others) in enumerate(gallery):
        for axis, other, colour in zip(grid[:, column], others, COLOURS):
            draw(axis, reference, other, colour)
    return figure


def _plot_deciles(deciles: dict[str, list[dict[str, Any]]]) -> "Figure":
    figure, axes = _figure(len(deciles))
    for axis, (name, parts) in zip(axes, deciles.items()):
        heights = [part["loss"] or 0.0 for part in parts]
        places = [(number + 0.5) / len(parts) for number in range(len(parts))]
        axis.bar(places, heights, width=0.9 / len(parts), color="#1f5a96")
        axis.set(title=name.replace("_", " "), xlabel="diffusion time", ylabel="mean loss")
    return figure


def main(argv: Sequence[str]) -> int:
    """`molstream report run_dir=...`: the table, then the page's path."""
    try:
        config = compose("report", ReportConfig, argv)
        story = read_story(config)
        output = Path(config.output) if config.output else Path(config.run_dir) / "report.html"
        write_report(story, output)
    except MolstreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    Console().print(summary(story))
    print(output)
    return 0
