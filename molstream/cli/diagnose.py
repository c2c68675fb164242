"""``molstream diagnose``: what a run has learned, beyond its loss."""

import sys
from collections.abc import Sequence
from pathlib import Path

from molstream.cli.command import run_command
from molstream.training.evaluation.config import DiagnoseConfig

EXAMPLES = (
    "molstream diagnose run_dir=runs/mine",
    "molstream diagnose run_dir=runs/mine dataset=datasets/unseen batches=64",
)


def diagnose(config: DiagnoseConfig) -> None:
    """Print tables, and write the numbers as JSON into the run directory, whose path is printed."""
    from rich.console import Console

    from molstream.io.locks import claimed
    from molstream.training.evaluation.diagnose import FILE, diagnose_run, tables, write_diagnosis
    from molstream.training.run.directory import RunDirectory

    # Before anything is made in a folder that is no run.
    RunDirectory(config.run_dir).config()
    with claimed(Path(config.run_dir, FILE)):
        found = diagnose_run(config)
        output = write_diagnosis(found, config.run_dir)
    for table in tables(found):
        Console().print(table)
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(output)


def main(words: Sequence[str]) -> int:
    """The command; returns its exit code."""
    return run_command("diagnose", DiagnoseConfig, diagnose, words, examples=EXAMPLES)
