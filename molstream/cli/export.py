"""``molstream export``: a run's checkpoint as a folder that can be published."""

from collections.abc import Sequence

from molstream.cli.command import run_command
from molstream.training.inference.config import ExportConfig

EXAMPLES = (
    "molstream export run_dir=runs/mine",
    "molstream export run_dir=runs/mine output=exports/mine step=2000",
)


def export(config: ExportConfig) -> None:
    """Write the export, and print its folder."""
    from molstream.training.inference.export import export_run

    print(export_run(config))


def main(words: Sequence[str]) -> int:
    """The command; returns its exit code."""
    return run_command("export", ExportConfig, export, words, examples=EXAMPLES)
