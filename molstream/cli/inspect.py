"""``molstream inspect``: what is this dataset, run, checkpoint or export?"""

from collections.abc import Sequence
from pathlib import Path

from molstream.cli.command import run_command
from molstream.config import configuration

EXAMPLES = (
    "molstream inspect datasets/mine",
    "molstream inspect runs/mine/checkpoints/step_00000200",
    "molstream inspect hf://org/name",
)


@configuration
class InspectConfig:
    """Print what a dataset, run, checkpoint or export holds, on one screen of text."""

    path: str
    """Folder, shard of a dataset, or the URL of a dataset, checkpoint or export (`hf://org/name`, `mlflow://NAME`,
    s3://...), the only one that is contacted; of such an export the configuration and the card are downloaded alone."""


def inspect(config: InspectConfig) -> None:
    """Print the text."""
    from molstream.io.remote import is_url
    from molstream.training.report.overview import overview, overview_at

    print(overview_at(config.path) if is_url(config.path) else overview(Path(config.path)))


def main(words: Sequence[str]) -> int:
    """The command; returns its exit code."""
    return run_command("inspect", InspectConfig, inspect, words, examples=EXAMPLES, positional="path")
