"""``molstream report``: an HTML page of one run, or of several side by side."""

from collections.abc import Sequence

from molstream.cli.command import run_command
from molstream.training.report.config import ReportConfig

EXAMPLES = (
    "molstream report runs/mine",
    "molstream report runs/a runs/b output=compared.html",
)


def report(config: ReportConfig) -> None:
    """Print a table of each run, write the page and print its path."""
    from rich.console import Console

    from molstream.training.report.page import summary, write_page

    runs, output = write_page(config)
    for run in runs:
        Console().print(summary(run))
    print(output)


def main(words: Sequence[str]) -> int:
    """The command; returns its exit code."""
    return run_command("report", ReportConfig, report, words, examples=EXAMPLES, positional="run_dir")
