"""Evaluates frozen vectors by ridge regression on a scaffold split, against an untrained encoder and ECFP4."""

import csv
import gzip
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from rich.table import Table
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from molstream.errors import DataError, in_words
from molstream.pipeline.readers.compression import DAMAGES, is_damage
from molstream.pipeline.readers.delimited import listed
from molstream.preprocessing.scaffold import scaffold_split
from molstream.training.evaluation.config import EvaluateConfig
from molstream.training.inference.embedder import MoleculeEmbedder

ALPHAS = tuple(10.0**k for k in range(-3, 5))
"""Ridge penalties, of which the validation set selects one."""


@dataclass(frozen=True)
class Score:
    """Errors of a representation on the test part, in the unit of the target."""

    representation: str
    """Name of the representation, such as ECFP4."""
    rmse: float
    """Root mean squared error, in the unit of the target."""
    mae: float
    """Mean absolute error, in the unit of the target."""
    r2: float
    """Coefficient of determination of the predictions."""
    alpha: float
    """Ridge penalty that the validation set selected."""
    molecules: tuple[int, int, int]
    """Numbers of train, validation and test molecules for which the representation could be computed."""


def evaluate(config: EvaluateConfig) -> dict[str, object]:
    """Score the pretrained encoder, the same encoder untrained, and ECFP4 on one scaffold split (80/10/10).

    Raises:
        DataError: the file lacks a column, or has too few usable rows.
        CheckpointError: ``export`` is not an export.
    """
    smiles, target = _read(config)
    parts = scaffold_split(smiles)
    pretrained = MoleculeEmbedder.from_pretrained(config.export, representation=config.representation)
    features: dict[str, Callable[[Sequence[str]], np.ndarray]] = {
        "pretrained": pretrained.transform,
        "untrained": pretrained.untrained(config.seed).transform,
        "ECFP4": ecfp4,
    }
    scores = [_score(name, make(smiles), target, parts) for name, make in features.items()]
    return {
        "input": Path(config.input).name,
        "target": config.target,
        "split": "scaffold 80/10/10",
        "dataset_fingerprint": pretrained.description["training"]["dataset_fingerprint"],
        "scores": [asdict(score) for score in scores],
    }


def ecfp4(smiles: Sequence[str]) -> np.ndarray:
    """Compute Morgan fingerprints of radius 2, float32 [g, 2048]; NaN if the SMILES cannot be parsed."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    bits = np.full((len(smiles), 2048), np.nan, np.float32)
    for row, text in enumerate(smiles):
        if (mol := Chem.MolFromSmiles(text)) is not None:
            bits[row] = generator.GetFingerprintAsNumPy(mol)
    return bits


def _score(name: str, vectors: np.ndarray, target: np.ndarray, parts: Sequence[np.ndarray]) -> Score:
    vectors = vectors.astype(np.float64)
    usable = np.isfinite(vectors).all(axis=1) & np.isfinite(target)
    train, valid, test = (part[usable[part]] for part in parts)
    if min(len(train), len(valid), len(test)) < 2:
        raise DataError(
            f"{name}: {len(train)}/{len(valid)}/{len(test)} usable molecules; expected at least 2 in each part."
        )
    models = [make_pipeline(StandardScaler(), Ridge(alpha)).fit(vectors[train], target[train]) for alpha in ALPHAS]
    errors = [root_mean_squared_error(target[valid], model.predict(vectors[valid])) for model in models]
    best = int(np.argmin(errors))
    predicted = models[best].predict(vectors[test])
    return Score(
        representation=name,
        rmse=float(root_mean_squared_error(target[test], predicted)),
        mae=float(mean_absolute_error(target[test], predicted)),
        r2=float(r2_score(target[test], predicted)),
        alpha=ALPHAS[best],
        molecules=(len(train), len(valid), len(test)),
    )


def _read(config: EvaluateConfig) -> tuple[list[str], np.ndarray]:
    """Read the SMILES and float64 targets (NaN if empty) of a file's rows."""
    path = Path(config.input)
    if not path.is_file():
        found = "expected a CSV, got a folder" if path.is_dir() else "no such file"
        raise DataError(f"input={path}: {found}.")
    try:
        return _rows(path, config)
    except (*DAMAGES, UnicodeDecodeError, csv.Error) as error:
        if not is_damage(error):
            raise
        raise DataError(
            f"input={path} cannot be read: {in_words(error)}. Expected a CSV in UTF-8, plain or as .csv.gz."
        ) from error


def _rows(path: Path, config: EvaluateConfig) -> tuple[list[str], np.ndarray]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for column in (config.smiles_column, config.target):
            if column not in (reader.fieldnames or ()):
                raise DataError(
                    f"{path} has no column '{column}'; its columns are {listed(reader.fieldnames or ()) or 'none'}."
                )
        rows = [(row[config.smiles_column], row[config.target]) for row in reader]
    if not rows:
        raise DataError(f"{path} has no rows: expected molecules.")
    if short := [number for number, (smiles, _) in enumerate(rows, 1) if smiles is None]:
        raise DataError(f"{path}, row {short[0]}: it ends before the column '{config.smiles_column}'.")
    try:
        target = np.array([float(value) if value else np.nan for _, value in rows])
    except ValueError as error:
        raise DataError(f"{path}, column '{config.target}': {in_words(error)}; expected numbers.") from error
    return [smiles for smiles, _ in rows], target


def score_table(result: dict[str, object]) -> Table:
    """The scores as a table for a terminal."""
    table = Table(title=f"{result['input']}: {result['target']}, {result['split']}, ridge on frozen vectors")
    for column in ("representation", "RMSE", "MAE", "R2", "train/valid/test"):
        table.add_column(column, justify="left" if column == "representation" else "right")
    for score in result["scores"]:  # type: ignore[attr-defined]
        numbers = [f"{score[key]:.3f}" for key in ("rmse", "mae", "r2")]
        table.add_row(score["representation"], *numbers, "/".join(map(str, score["molecules"])))
    return table
