"""Reads everything that a report shows of a run from its directory."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from molstream.errors import DataError, in_words
from molstream.io.reading import AnyNumber, Shape, read_json
from molstream.training.config import PretrainConfig
from molstream.training.evaluation.conformer_scores import EnsembleScore
from molstream.training.evaluation.diagnose import FILE as DIAGNOSTICS
from molstream.training.evaluation.diagnostics import Diagnosis
from molstream.training.evaluation.gallery import read_gallery
from molstream.training.evaluation.generated import GENERATED
from molstream.training.evaluation.vectors.results import RESULT
from molstream.training.metrics.records import Record, read_metrics
from molstream.training.run.directory import RunDirectory
from molstream.training.run.history import Launch, read_launches

GENERATED_RESULTS: dict[str, Shape] = {
    "conformers": {"threshold": float, "per_reference": int, "scores": [EnsembleScore]},
    "bonds": dict.fromkeys(("molecules", "exact", "valid", "same_molecule", "bond_accuracy"), AnyNumber),
}
"""What the report shows of the JSON of `molstream evaluate conformers` and `bonds`."""


@dataclass(frozen=True)
class RunData:
    """Contents of a run directory that a report shows."""

    name: str
    """Name of the run, that of its directory."""
    config: PretrainConfig
    """Configuration of the run."""
    dataset: dict[str, Any]
    """Record of the dataset that it was trained on."""
    environment: dict[str, Any]
    """Versions and machine of the newest launch."""
    records: list[Record]
    """Records of all steps, in order."""
    launches: list[Launch]
    """Launches of the run, in order; empty if there is no history."""
    evaluation: dict[str, Any] | None
    """JSON of `molstream evaluate vectors`; None without an evaluation."""
    diagnostics: dict[str, Any] | None
    """JSON of `molstream diagnose`; None if it was not run."""
    generated: dict[str, dict[str, Any]]
    """JSON of `molstream evaluate conformers` and `bonds`, as far as they were run."""
    gallery: list[list[Any]]
    """Molecules of the gallery, see :func:`molstream.training.evaluation.gallery.read_gallery`."""
    embedded: tuple[int, int] | None
    """Number of rows of the embeddings file, and number of failed ones."""

    def loss(self) -> tuple[float, float]:
        """Mean training loss over the first and the last twentieth of the steps."""
        losses = [record["train/loss"] for record in self.records if "train/loss" in record]
        part = max(1, len(losses) // 20)
        return float(np.mean(losses[:part])), float(np.mean(losses[-part:]))


def read_run(run_dir: str, evaluation_file: str | None = None, embeddings_file: str | None = None) -> RunData:
    """Read everything that a report needs of a run.

    Args:
        run_dir: the pretraining run.
        evaluation_file: JSON of `molstream evaluate vectors`; by default `eval.json` in the run, if it exists.
        embeddings_file: Parquet of `molstream embed`.

    Raises:
        ConfigError: ``run_dir`` is no run.
        DataError: it has no recorded step yet, a file that was named is missing, or one is damaged.
    """
    run = RunDirectory(run_dir)
    pretrain = run.config()
    if not (records := read_metrics(run.path)):
        raise DataError(f"{run.path} has no recorded step yet. Train it for at least one log interval.")
    evaluation = Path(evaluation_file) if evaluation_file else run.path / "eval.json"
    if evaluation_file and not evaluation.is_file():
        raise DataError(
            f"evaluation={evaluation}: no such file. Write it with `molstream evaluate vectors output=...`."
        )
    gallery = run.path / "conformers.sdf"
    return RunData(
        name=run.path.resolve().name,
        config=pretrain,
        dataset=run.dataset(),
        environment=run.environment(),
        records=records,
        launches=read_launches(run.path),
        evaluation=_result(evaluation, RESULT, "evaluate vectors"),
        diagnostics=_result(run.path / DIAGNOSTICS, Diagnosis, "diagnose"),
        generated={name: result for name in GENERATED if (result := _generated(run.path, name)) is not None},
        gallery=read_gallery(gallery) if gallery.is_file() else [],
        embedded=_count_embeddings(embeddings_file),
    )


def _result(file: Path, shape: Shape, command: str) -> dict[str, Any] | None:
    """What a command has written as JSON; None if it has not."""
    return read_json(file, shape, f"Write it again with `molstream {command}`.") if file.is_file() else None


def _generated(folder: Path, kind: str) -> dict[str, Any] | None:
    return _result(folder / f"{kind}.json", GENERATED_RESULTS[kind], f"evaluate {kind}")


@dataclass(frozen=True)
class LaunchRow:
    """A launch of the run: a row in the table of the report."""

    launch: Launch
    """The launch itself, from the run's history."""
    until: int
    """Last step recorded before the next launch; for the last launch, the last recorded step."""
    molecules_per_s: float
    """Median throughput over its steps that were not repeated later."""
    ended: str
    """How the launch ended, such as "died"."""
    hours: float | None
    """Duration in hours; None if it died or is still running."""

    @property
    def began(self) -> str:
        """Time at which the launch began, in UTC."""
        return datetime.fromtimestamp(self.launch.time, UTC).strftime("%Y-%m-%d %H:%M:%S")

    @property
    def repeated(self) -> int:
        """Number of steps that the launch repeated."""
        return self.launch.recorded - self.launch.step


def launch_rows(run: RunData) -> list[LaunchRow]:
    """List the launches of a run with their outcome."""
    launch_of = _launch_of(run)
    speeds = np.array([record["throughput/molecules_per_s"] for record in run.records])
    rows: list[LaunchRow] = []
    for k, launch in enumerate(run.launches):
        is_last = k + 1 == len(run.launches)
        own = speeds[launch_of == k]
        rows.append(
            LaunchRow(
                launch=launch,
                until=int(run.records[-1]["step"]) if is_last else run.launches[k + 1].recorded,
                molecules_per_s=float(np.median(own)) if len(own) else math.nan,
                ended=launch.ended or ("died, or still runs" if is_last else "died"),
                hours=(launch.end_time - launch.time) / 3600 if launch.end_time else None,
            )
        )
    return rows


def per_process(run: RunData) -> list[Record]:
    """Add the throughput per process to the records whose number of processes is known."""
    name = "throughput/molecules_per_s"
    return [
        {**record, f"{name}_and_process": record[name] / run.launches[k].world_size} if k >= 0 else record
        for record, k in zip(run.records, _launch_of(run), strict=True)
    ]


def _launch_of(run: RunData) -> np.ndarray:
    """[records]: number of the launch that wrote each record; -1 if it is not known."""
    steps = np.array([record["step"] for record in run.records])
    launch_of = np.full(len(steps), -1)
    for k, launch in enumerate(run.launches):
        # A launch repeats the steps of earlier launches after the one that it resumes from.
        launch_of[steps > launch.step] = k
    return launch_of


def _count_embeddings(path: str | None) -> tuple[int, int] | None:
    if path is None:
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise DataError(f"embeddings={path}: no such file. Write it with `molstream embed output=...`.")
    try:
        if "failure" not in (names := pq.read_schema(path).names):
            raise DataError(
                f"embeddings={path} is not what `molstream embed` writes: its columns are {', '.join(names)}, expected "
                "'failure' among them. Give its output."
            )
        reasons = pq.read_table(path, columns=["failure"])["failure"]
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"embeddings={path} is not what `molstream embed` writes, or damaged: {in_words(error)}. Write it again."
        ) from error
    return len(reasons), len(reasons) - reasons.null_count
