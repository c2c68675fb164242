"""``molstream inspect``: what is this dataset, run, checkpoint or export?"""

from collections.abc import Sequence

from molstream.cli.command import run_command
from molstream.config import configuration

EXAMPLES = (
    "molstream inspect datasets/mine",
    "molstream inspect runs/mine/checkpoints/step_00000200",
)


@configuration
class InspectConfig:
    """Print what a dataset, run, checkpoint or export holds, on one screen of text."""

    path: str
    """Folder, or the URL of a checkpoint."""


def inspect(config: InspectConfig) -> None:
    """Print the text."""
    from molstream.training.checkpoint.store import local_folder
    from molstream.training.report.overview import overview

    print(overview(local_folder(config.path)))


def main(words: Sequence[str]) -> int:
    """The command; returns its exit code."""
    return run_command("inspect", InspectConfig, inspect, words, examples=EXAMPLES, positional="path")
