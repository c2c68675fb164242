"""``molstream sync``: send a finished run's records to loggers that have missed some."""

from collections.abc import Sequence

from molstream.cli.command import DONE, FAILED, run_command
from molstream.training.metrics.config import SyncConfig

EXAMPLES = (
    "molstream sync run_dir=runs/mine",
    "molstream sync run_dir=runs/mine 'loggers=[mlflow]'",
)


def sync(config: SyncConfig) -> int:
    """Send what is missing; exit code 1 where something is missing still, which is logged."""
    from molstream.training.metrics.sync import sync

    complete = sync(config)
    if complete:
        print(f"{config.run_dir}: all records are sent")
    return DONE if complete else FAILED


def main(words: Sequence[str]) -> int:
    """The command; returns its exit code."""
    return run_command("sync", SyncConfig, sync, words, examples=EXAMPLES)
