"""``molstream diagnose``: what a run has learned, beyond its loss."""

from collections.abc import Sequence

from molstream.cli.command import run_command
from molstream.training.evaluation.config import DiagnoseConfig

EXAMPLES = (
    "molstream diagnose run_dir=runs/mine",
    "molstream diagnose run_dir=runs/mine dataset=datasets/unseen batches=64",
)


def diagnose(config: DiagnoseConfig) -> None:
    """Print tables, and write the numbers as JSON into the run directory, whose path is printed."""
    from rich.console import Console

    from molstream.training.evaluation.diagnose import diagnose_run, tables, write_diagnosis

    found = diagnose_run(config)
    output = write_diagnosis(found, config.run_dir)
    for table in tables(found):
        Console().print(table)
    print(output)


def main(words: Sequence[str]) -> int:
    """The command; returns its exit code."""
    return run_command("diagnose", DiagnoseConfig, diagnose, words, examples=EXAMPLES)
