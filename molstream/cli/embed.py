"""``molstream embed``: vectors for a file of molecules of any size, into Parquet."""

from collections.abc import Sequence

from molstream.cli.command import run_command
from molstream.training.inference.config import EmbedConfig

EXAMPLES = ("molstream embed export=runs/mine/export input=molecules.csv output=vectors.parquet",)


def embed(config: EmbedConfig) -> None:
    """Embed; a molecule that fails is a row with its reason, not an error of the command."""
    from molstream.training.inference.embed_files import embed_file

    rows, failed = embed_file(config)
    print(f"{config.output}: {rows - failed} of {rows} molecules embedded, {failed} failed")


def main(words: Sequence[str]) -> int:
    """The command; returns its exit code."""
    return run_command("embed", EmbedConfig, embed, words, examples=EXAMPLES)
