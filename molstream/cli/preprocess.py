"""``molstream preprocess``: raw molecule files to a dataset, or what that would cost."""

import shlex
from collections.abc import Sequence

from molstream.cli.command import HELP, run_command
from molstream.pipeline.config import DryRunConfig, PreprocessConfig

EXAMPLES = (
    "molstream preprocess input=molecules.csv output=datasets/mine",
    "molstream preprocess 'input=[a.csv,{path: b.txt, format: csv, smiles_column: smi}]' output=datasets/both",
    "molstream preprocess input=s3://bucket/molecules/ output=/shared/mine ray.address=auto",
    "molstream preprocess input=molecules.csv output=datasets/mine --dry-run",
)


FLAGS = {"--dry-run": "Try a sample (sample=200 records) and print what the job would cost instead of running it."}


def preprocess(config: PreprocessConfig) -> None:
    """Make the dataset, and print what it holds."""
    from molstream.pipeline.build import build
    from molstream.pipeline.executor.ray import interrupt_on_sigterm
    from molstream.pipeline.reports.inspect import inspect_dataset

    interrupt_on_sigterm()
    build(config)
    print(inspect_dataset(config.output))


def dry_run(config: DryRunConfig, words: Sequence[str]) -> None:
    """Print what the job would cost.

    Raises:
        DataError: it would fail, since too many rows are rejected.
    """
    from molstream.pipeline.reports.estimate import estimate, require_bearable

    found = estimate(config)
    print(found.text(shlex.join(["molstream", "preprocess", *words])))
    require_bearable(found)


def main(words: Sequence[str]) -> int:
    """The command; returns its exit code."""
    if "--dry-run" not in words or any(word in HELP for word in words):
        return run_command("preprocess", PreprocessConfig, preprocess, words, examples=EXAMPLES, flags=FLAGS)
    settings = [word for word in words if word != "--dry-run"]
    job = [word for word in settings if not word.startswith("sample=")]
    return run_command("preprocess", DryRunConfig, lambda config: dry_run(config, job), settings, examples=EXAMPLES)
