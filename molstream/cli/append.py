"""``molstream append``: more files for a dataset, with the settings that it was made with."""

from collections.abc import Sequence

from molstream.cli.command import run_command
from molstream.pipeline.config import AppendConfig

EXAMPLES = ("molstream append input=more.csv output=datasets/mine",)


def append(config: AppendConfig) -> None:
    """Append, and print what the dataset holds then."""
    from molstream.pipeline import append
    from molstream.pipeline.executor.ray import interrupt_on_sigterm
    from molstream.pipeline.reports.inspect import inspect_dataset

    interrupt_on_sigterm()
    append.append(config)
    print(inspect_dataset(config.output))


def main(words: Sequence[str]) -> int:
    """The command; returns its exit code."""
    return run_command("append", AppendConfig, append, words, examples=EXAMPLES)
