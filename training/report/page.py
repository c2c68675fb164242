"""Report of one run, or comparison of several: a self-contained HTML page, and a short table for the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from molstream.config import flatten, to_yaml, tree_of
from molstream.errors import ConfigError
from molstream.io.files import write_atomically
from molstream.io.locks import claimed
from molstream.training.report.config import ReportConfig
from molstream.training.report.data import RunData, launch_rows, per_process, read_run
from molstream.training.report.figures import (
    image,
    plot_dataset,
    plot_deciles,
    plot_evaluation,
    plot_gallery,
    plot_losses,
    plot_progress,
)

if TYPE_CHECKING:
    from jinja2 import Template


def write_report(run: RunData, output: Path) -> None:
    """Write the HTML page of a run; images are inlined, so that it can be opened offline."""
    records = {run.name: per_process(run)}
    before, after = run.loss()
    page = _template("report.html.jinja").render(
        run=run,
        config_yaml=to_yaml(run.config),
        rows=launch_rows(run),
        before=before,
        after=after,
        losses=image(plot_losses(records, run.launches)),
        progress=image(plot_progress(records, run.launches)),
        histograms=image(plot_dataset(run.dataset)),
        evaluation=image(plot_evaluation(run.evaluation)) if run.evaluation else None,
        deciles=image(plot_deciles(run.diagnostics["deciles"])) if run.diagnostics else None,
        gallery=image(plot_gallery(run.gallery)) if run.gallery else None,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, page.encode())


def summary(run: RunData) -> Table:
    """Summarise a run in a table for a terminal."""
    counts, (before, after) = run.dataset["counts"], run.loss()
    rejected = sum(counts["rejected"].values())
    table = Table(title=f"run {run.name}", show_header=False)
    table.add_row("molecules in", f"{counts['in']:,}")
    table.add_row("written", f"{counts['written']:,}")
    table.add_row("rejected", f"{rejected:,}")
    table.add_row("duplicates", f"{counts['duplicates']:,}")
    table.add_row("steps", f"{len(run.records):,}")
    if run.launches:
        sizes = ", ".join(str(launch.world_size) for launch in run.launches)
        table.add_row("launches on processes", sizes)
    table.add_row("loss before -> after", f"{before:.4f} -> {after:.4f}")
    if run.embedded:
        table.add_row("embeddings written", f"{run.embedded[0] - run.embedded[1]:,} ({run.embedded[1]} failed)")
    return table


def write_comparison(runs: Sequence[RunData], output: Path) -> None:
    """Write the HTML page that compares several runs: losses, differing configuration keys and shared curves."""
    names = [f"{k}. {run.name}" for k, run in enumerate(runs, 1)]
    records = {name: per_process(run) for name, run in zip(names, runs, strict=True)}
    configs = [dict(flatten(tree_of(run.config))) for run in runs]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    page = _template("comparison.html.jinja").render(
        runs=list(zip(names, runs, [launch_rows(run) for run in runs], strict=True)),
        differing=[
            (key, values) for key in keys if len(set(map(str, values := [config.get(key) for config in configs]))) > 1
        ],
        losses=image(plot_losses(records)),
        progress=image(plot_progress(records)),
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, page.encode())


def _template(name: str) -> "Template":
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(name)


def write_page(config: ReportConfig) -> tuple[list[RunData], Path]:
    """Read the runs and write their page; returns the runs' data and the path of the page.

    Raises:
        ConfigError: no run is named, or a key for a single run is given with several.
        DataError: a run cannot be read, or another process writes the page.
    """
    folders = config.run_dir
    if not folders:
        raise ConfigError("no run is named. Name one or several: molstream report RUN... [output=FILE.html].")
    if len(folders) > 1 and (config.evaluation or config.embeddings):
        raise ConfigError(f"evaluation and embeddings belong to one run, but {len(folders)} runs are named.")
    runs = [read_run(folder, config.evaluation, config.embeddings) for folder in folders]
    output = Path(config.output or (Path(folders[0], "report.html") if len(folders) == 1 else "report.html"))
    with claimed(output):
        if len(runs) == 1:
            write_report(runs[0], output)
        else:
            write_comparison(runs, output)
    return runs, output
