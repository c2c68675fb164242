"""``molstream embed``: vectors for molecule files of any size, into Parquet, CSV or npy."""

import sys
from collections.abc import Sequence

from molstream.cli.command import run_command
from molstream.training.inference.config import EmbedConfig

EXAMPLES = (
    "molstream embed export=runs/mine/export input=molecules.csv output=vectors.parquet",
    "molstream embed export=runs/mine/export input=- format=smi output=-",
)


def embed(config: EmbedConfig) -> None:
    """Embed; a molecule that fails is a row with its reason, not an error of the command."""
    from molstream.training.inference.embed_files import embed_file

    rows, failed = embed_file(config)
    name = "stdout" if config.output == "-" else config.output
    print(f"{name}: {rows - failed} of {rows} molecules embedded, {failed} failed", file=sys.stderr)


def main(words: Sequence[str]) -> int:
    """The command; returns its exit code."""
    return run_command("embed", EmbedConfig, embed, words, examples=EXAMPLES)
