"""What run directories tell: everything that a report shows of a run, read once."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from molstream.errors import DataError, in_words
from molstream.io.reading import Shape, read_json
from molstream.training.config import PretrainConfig
from molstream.training.evaluation.conformer_scores import EnsembleScore
from molstream.training.evaluation.diagnose import FILE as DIAGNOSTICS
from molstream.training.evaluation.diagnostics import Diagnosis
from molstream.training.evaluation.gallery import read_gallery
from molstream.training.evaluation.generated import GENERATED
from molstream.training.metrics.records import Record, read_metrics
from molstream.training.run.directory import RunDirectory
from molstream.training.run.history import Launch, read_launches

SCORE = {"representation": str, "rmse": float, "mae": float, "r2": float, "molecules": list}
EVALUATION = {"input": str, "target": str, "split": str, "scores": [SCORE]}
"""What the report shows of the JSON of `molstream evaluate`."""
GENERATED_RESULTS: dict[str, Shape] = {
    "conformers": {"threshold": float, "per_reference": int, "scores": [EnsembleScore]},
    "bonds": dict.fromkeys(("molecules", "exact", "valid", "same_molecule", "bond_accuracy"), float),
}
"""The same of `molstream evaluate conformers` and `bonds`."""


@dataclass(frozen=True)
class Story:
    """What a run directory tells."""

    name: str
    config: PretrainConfig
    dataset: dict[str, Any]
    environment: dict[str, Any]
    records: list[Record]
    launches: list[Launch]
    evaluation: dict[str, Any] | None
    diagnostics: dict[str, Any] | None
    """JSON of `molstream diagnose`, where it was run."""
    generated: dict[str, dict[str, Any]]
    """JSON of `molstream evaluate conformers` and `bonds`, where they were run."""
    gallery: list[list[Any]]
    """Molecules of the former, see :func:`molstream.training.evaluation.gallery.read_gallery`."""
    embedded: tuple[int, int] | None
    """Rows of the embeddings file, and how many of them failed."""

    def loss(self) -> tuple[float, float]:
        """Mean training loss over the first and over the last twentieth of the steps."""
        losses = [record["train/loss"] for record in self.records if "train/loss" in record]
        part = max(1, len(losses) // 20)
        return float(np.mean(losses[:part])), float(np.mean(losses[-part:]))


def read_story(run_dir: str, evaluation_file: str | None = None, embeddings_file: str | None = None) -> Story:
    """Everything the report needs.

    Args:
        run_dir: the pretraining run.
        evaluation_file: JSON of `molstream evaluate`; `eval.json` in the run is taken where it exists.
        embeddings_file: Parquet of `molstream embed`.

    Raises:
        ConfigError: ``run_dir`` is no run.
        DataError: it has no recorded step yet, a file that was named is missing, or one is damaged.
    """
    run = RunDirectory(run_dir)
    pretrain = run.config()
    if not (records := read_metrics(run.path)):
        raise DataError(f"{run.path} has no recorded step yet: train it for at least one log interval.")
    evaluation = Path(evaluation_file) if evaluation_file else run.path / "eval.json"
    if evaluation_file and not evaluation.is_file():
        raise DataError(f"evaluation={evaluation}: no such file. Write it with `molstream evaluate output=...`.")
    gallery = run.path / "conformers.sdf"
    return Story(
        name=run.path.resolve().name,
        config=pretrain,
        dataset=run.dataset(),
        environment=run.environment(),
        records=records,
        launches=read_launches(run.path),
        evaluation=_result(evaluation, EVALUATION, "evaluate"),
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
    """A launch in the table of the report."""

    launch: Launch
    until: int
    """Newest step that was recorded before the next launch, or at all."""
    molecules_per_s: float
    """Median over its steps that were not done again."""
    ended: str
    hours: float | None
    """None where it died or still runs."""

    @property
    def began(self) -> str:
        """When it began, in UTC."""
        return datetime.fromtimestamp(self.launch.time, UTC).strftime("%Y-%m-%d %H:%M:%S")

    @property
    def repeated(self) -> int:
        """Steps that it did again."""
        return self.launch.recorded - self.launch.step


def launch_rows(story: Story) -> list[LaunchRow]:
    """The launches of a run with what became of them."""
    launch_of = _launch_of(story)
    speeds = np.array([record["throughput/molecules_per_s"] for record in story.records])
    rows: list[LaunchRow] = []
    for k, launch in enumerate(story.launches):
        is_last = k + 1 == len(story.launches)
        own = speeds[launch_of == k]
        rows.append(
            LaunchRow(
                launch=launch,
                until=int(story.records[-1]["step"]) if is_last else story.launches[k + 1].recorded,
                molecules_per_s=float(np.median(own)) if len(own) else math.nan,
                ended=launch.ended or ("died, or still runs" if is_last else "died"),
                hours=(launch.end_time - launch.time) / 3600 if launch.end_time else None,
            )
        )
    return rows


def per_process(story: Story) -> list[Record]:
    """The records, with the speed of each process where it is known how many there were."""
    name = "throughput/molecules_per_s"
    return [
        {**record, f"{name}_and_process": record[name] / story.launches[k].world_size} if k >= 0 else record
        for record, k in zip(story.records, _launch_of(story), strict=True)
    ]


def _launch_of(story: Story) -> np.ndarray:
    """[records], the number of the launch that made each; -1 where it is not known."""
    steps = np.array([record["step"] for record in story.records])
    launch_of = np.full(len(steps), -1)
    for k, launch in enumerate(story.launches):
        # A launch did again what those before it had done beyond its first step.
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
