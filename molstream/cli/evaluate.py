"""``molstream evaluate``: what frozen vectors are worth; or what a run generates, against a dataset."""

import json
from collections.abc import Sequence
from pathlib import Path

from molstream.cli.command import run_command
from molstream.training.evaluation.config import EvaluateConfig, EvaluateGeneratedConfig

EXAMPLES = {
    "": ("molstream evaluate export=runs/mine/export input=freesolv.csv target=expt",),
    "conformers": ("molstream evaluate conformers run_dir=runs/mine dataset=datasets/unseen",),
    "bonds": ("molstream evaluate bonds run_dir=runs/mine dataset=datasets/unseen molecules=1000",),
}
FLAGS = {
    "conformers --help": "Help of evaluating generated conformers, beside those of ETKDG.",
    "bonds --help": "Help of evaluating bonds that are recovered from geometry.",
}


def evaluate(config: EvaluateConfig) -> None:
    """Print a table, and write the numbers as JSON."""
    from rich.console import Console

    from molstream.io.locks import claimed
    from molstream.training.evaluation.probe import evaluate, score_table

    output = Path(config.output) if config.output else Path(config.export).resolve().parent / "eval.json"
    with claimed(output):
        result = evaluate(config)
        _write(result, output)
    Console().print(score_table(result))


def evaluate_generated(kind: str, config: EvaluateGeneratedConfig) -> None:
    """Print a table, and write the numbers as JSON."""
    from rich.console import Console

    from molstream.io.locks import claimed
    from molstream.training.evaluation.generated import GENERATED
    from molstream.training.run.directory import RunDirectory

    score, table = GENERATED[kind]
    output = Path(config.output) if config.output else Path(config.run_dir) / f"{kind}.json"
    # Before anything is made in a folder that is no run.
    RunDirectory(config.run_dir).config()
    with claimed(output):
        result = score(config, output)
        _write(result, output)
    Console().print(table(result))


def _write(result: dict[str, object], output: Path) -> None:
    from molstream.io.files import write_atomically

    write_atomically(output, (json.dumps(result, indent=1) + "\n").encode())


def main(words: Sequence[str]) -> int:
    """The command; returns its exit code."""
    kind = words[0] if words and words[0] in ("conformers", "bonds") else ""
    if not kind:
        return run_command("evaluate", EvaluateConfig, evaluate, words, examples=EXAMPLES[""], flags=FLAGS)
    return run_command(
        f"evaluate {kind}",
        EvaluateGeneratedConfig,
        lambda config: evaluate_generated(kind, config),
        words[1:],
        examples=EXAMPLES[kind],
    )
