"""``molstream evaluate vectors|conformers|bonds``: what frozen vectors, or what a run generates, are worth."""

import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from molstream.cli.command import run_choice, run_command
from molstream.training.evaluation.config import EvaluateGeneratedConfig, EvaluateVectorsConfig

EXAMPLES = {
    "vectors": (
        "molstream evaluate vectors export=runs/mine/export input=freesolv.csv target=expt",
        "molstream evaluate vectors export=runs/mine/export data_dir=moleculenet tasks=[freesolv,esol,lipo,bbbp,bace]",
        "molstream evaluate vectors export=runs/mine input=freesolv.csv target=expt 'vectors={other: other.npy}'",
    ),
    "conformers": (
        "molstream evaluate conformers run_dir=runs/mine dataset=datasets/unseen",
        "molstream evaluate conformers run_dir=org/name dataset=datasets/unseen",
    ),
    "bonds": ("molstream evaluate bonds run_dir=runs/mine dataset=datasets/unseen molecules=1000",),
}
WIDTH = 300
"""Columns of a table that is not printed to a terminal, at most."""
SUMMARIES = {
    "vectors": "frozen vectors, beside an untrained encoder, ECFP4 and descriptors, by cross-validation",
    "conformers": "generated conformers, beside those of ETKDG",
    "bonds": "bonds that are recovered from geometry",
}


def evaluate_vectors(config: EvaluateVectorsConfig) -> None:
    """Print tables and sentences, and write everything as JSON."""
    from rich.console import Console

    from molstream.io.locks import claimed
    from molstream.training.evaluation.vectors.evaluate import evaluate_vectors
    from molstream.training.evaluation.vectors.results import tables

    output = Path(config.output) if config.output else _folder(config.export) / "eval.json"
    with _interrupted_by_sigterm(), claimed(output):
        result = evaluate_vectors(config)
        _write(result, output)
    # A file or pipe has no width: there, no cell is folded.
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for line in result["composition"]:
        print(line)
    for folding, table in zip(result["foldings"], tables(result), strict=True):
        console.print(table)
        for line in folding["sentences"]:
            print(line)


def _folder(export: str) -> Path:
    """Where the results of an export or run belong."""
    from molstream.training.hubs.source import is_remote
    from molstream.training.shipped import SHIPPED

    if export in SHIPPED or is_remote(export):
        return Path()
    source = Path(export).resolve()
    return source if (source / "config.yaml").is_file() else source.parent


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the body as Ctrl-C does, and so the processes that fit heads; they outlive one that just ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def evaluate_generated(kind: str, config: EvaluateGeneratedConfig) -> None:
    """Print a table, and write the numbers as JSON."""
    from rich.console import Console

    from molstream.io.locks import claimed
    from molstream.training.checkpoint.exported import CONFIG_FILE
    from molstream.training.evaluation.generated import GENERATED
    from molstream.training.hubs.source import is_remote
    from molstream.training.run.directory import RunDirectory
    from molstream.training.shipped import located

    score, table = GENERATED[kind]
    output = Path(config.output) if config.output else _folder(config.run_dir) / f"{kind}.json"
    # Before anything is made in a folder that is neither an export nor a run.
    if not is_remote(config.run_dir) and not (located(config.run_dir, "run_dir") / CONFIG_FILE).is_file():
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

    def run(kind: str, rest: Sequence[str]) -> int:
        name, examples = f"evaluate {kind}", EXAMPLES[kind]
        if kind == "vectors":
            return run_command(name, EvaluateVectorsConfig, evaluate_vectors, rest, examples=examples)
        return run_command(
            name, EvaluateGeneratedConfig, lambda config: evaluate_generated(kind, config), rest, examples=examples
        )

    return run_choice("evaluate", SUMMARIES, run, words)
