"""``molstream verify``: is every byte of a dataset as it was written, and does every count hold?"""

import sys
from collections.abc import Sequence
from pathlib import Path

from molstream.cli.command import DONE, FAILED, run_command
from molstream.config import configuration

EXAMPLES = ("molstream verify datasets/mine",)


@configuration
class VerifyConfig:
    """Check the checksums, the schema and the counts of a dataset; exit code 1 on any damage."""

    dataset: str
    """Folder of the dataset."""


def verify(config: VerifyConfig) -> int:
    """Print what is damaged, if anything, and whether an append is unfinished."""
    from molstream.pipeline.shards.verify import unfinished, verify

    problems = verify(Path(config.dataset))
    if append := unfinished(Path(config.dataset)):
        print(f"unfinished: {append}", file=sys.stderr)
    for problem in problems:
        print(f"damaged: {problem}", file=sys.stderr)
    if not problems:
        print(f"{config.dataset} is intact")
    return FAILED if problems else DONE


def main(words: Sequence[str]) -> int:
    """The command; returns its exit code."""
    return run_command("verify", VerifyConfig, verify, words, examples=EXAMPLES, positional="dataset")
