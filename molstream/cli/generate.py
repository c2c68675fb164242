"""``molstream generate conformers|bonds``: what a run generates for a file of molecules, as an SDF."""

from collections.abc import Sequence

from molstream.cli.command import run_choice, run_command
from molstream.training.inference.config import GenerateConfig

EXAMPLES = {
    "conformers": (
        "molstream generate conformers run_dir=runs/mine input=molecules.csv output=conformers.sdf repeats=10",
    ),
    "bonds": ("molstream generate bonds run_dir=runs/mine input=conformers.sdf output=molecules.sdf",),
}


def generate(kind: str, config: GenerateConfig) -> None:
    """Generate; what fails is a row of a table with its reason, not an error of the command."""
    from molstream.training.inference.generate_files import KINDS, generate_file

    written, failed = generate_file(KINDS[kind], config)
    print(f"{config.output}: {written} molecules, {failed} failures")


def main(words: Sequence[str]) -> int:
    """The command; returns its exit code."""

    def run(kind: str, rest: Sequence[str]) -> int:
        name = f"generate {kind}"
        return run_command(name, GenerateConfig, lambda config: generate(kind, config), rest, examples=EXAMPLES[kind])

    summaries = {"conformers": "3D geometry of bond graphs", "bonds": "bonds and charges of 3D geometry"}
    return run_choice("generate", summaries, run, words)
