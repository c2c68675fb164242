"""The report of a run, or of several side by side: a self-contained HTML page, and a short table for the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from molstream.config import flatten, to_yaml, tree_of
from molstream.errors import ConfigError
from molstream.io.files import write_atomically
from molstream.training.report.config import ReportConfig
from molstream.training.report.data import Story, launch_rows, per_process, read_story
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


def write_report(story: Story, output: Path) -> None:
    """Render the page; images are inlined, so that it opens anywhere, offline."""
    records = {story.name: per_process(story)}
    before, after = story.loss()
    page = _template("report.html.jinja").render(
        story=story,
        config_yaml=to_yaml(story.config),
        rows=launch_rows(story),
        before=before,
        after=after,
        losses=image(plot_losses(records, story.launches)),
        progress=image(plot_progress(records, story.launches)),
        histograms=image(plot_dataset(story.dataset)),
        evaluation=image(plot_evaluation(story.evaluation)) if story.evaluation else None,
        deciles=image(plot_deciles(story.diagnostics["deciles"])) if story.diagnostics else None,
        gallery=image(plot_gallery(story.gallery)) if story.gallery else None,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, page.encode())


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
    if story.launches:
        sizes = ", ".join(str(launch.world_size) for launch in story.launches)
        table.add_row("launches on processes", sizes)
    table.add_row("loss before -> after", f"{before:.4f} -> {after:.4f}")
    if story.embedded:
        table.add_row("embeddings written", f"{story.embedded[0] - story.embedded[1]:,} ({story.embedded[1]} failed)")
    return table


def write_comparison(stories: Sequence[Story], output: Path) -> None:
    """Render the page of several runs: what they are, in what they differ, their curves in the same panels."""
    names = [f"{k}. {story.name}" for k, story in enumerate(stories, 1)]
    records = {name: per_process(story) for name, story in zip(names, stories, strict=True)}
    configs = [dict(flatten(tree_of(story.config))) for story in stories]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    page = _template("comparison.html.jinja").render(
        runs=list(zip(names, stories, [launch_rows(story) for story in stories], strict=True)),
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


def write_page(config: ReportConfig) -> tuple[list[Story], Path]:
    """Read the runs and write their page; returns what was read, and the file.

    Raises:
        ConfigError: no run is named, or a key of one run is given for several.
    """
    runs = config.run_dir
    if not runs:
        raise ConfigError("no run is named: molstream report RUN... [output=FILE.html].")
    if len(runs) > 1 and (config.evaluation or config.embeddings):
        raise ConfigError(f"evaluation and embeddings are those of one run, but {len(runs)} runs are named.")
    stories = [read_story(run, config.evaluation, config.embeddings) for run in runs]
    output = Path(config.output or (Path(runs[0], "report.html") if len(runs) == 1 else "report.html"))
    if len(runs) == 1:
        write_report(stories[0], output)
    else:
        write_comparison(stories, output)
    return stories, output
