"""Evaluates frozen vectors by ridge regression on a scaffold split, against an untrained encoder and ECFP4."""

import tempfile
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
from molstream.pipeline.readers.prepare import open_sources
from molstream.pipeline.readers.split import cut, read_split
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.featurize import describe
from molstream.preprocessing.fields import RawMolecule, Rejection
from molstream.preprocessing.scaffold import scaffold_split
from molstream.training.evaluation.config import EvaluateConfig
from molstream.training.inference.embedder import MoleculeEmbedder

ALPHAS = tuple(10.0**k for k in range(-3, 5))
"""Ridge penalties, of which the validation set selects one."""

ROWS_AT_A_TIME = 4096


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
        DataError: a file lacks a column, a record cannot be read, or there are too few usable ones.
        CheckpointError: ``export`` is not an export.
    """
    molecules, target = _read(config)
    smiles = list(map(_smiles, molecules))
    parts = scaffold_split(smiles)
    pretrained = MoleculeEmbedder.from_pretrained(config.export, representation=config.representation, n_jobs=-1)
    features: dict[str, Callable[[], np.ndarray]] = {
        "pretrained": lambda: pretrained.transform(molecules),
        "untrained": lambda: pretrained.untrained(config.seed).transform(molecules),
        "ECFP4": lambda: ecfp4(smiles),
    }
    scores = [_score(name, make(), target, parts) for name, make in features.items()]
    return {
        "input": ", ".join(dict.fromkeys(molecule.source for molecule in molecules)),
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


def _read(config: EvaluateConfig) -> tuple[list[RawMolecule], np.ndarray]:
    """Read the molecules and float64 targets (NaN if empty) of all records.

    Raises:
        DataError: a record cannot be read, or its target is no number.
    """
    with tempfile.TemporaryDirectory() as work:
        sources = open_sources(config.input, Path(work), config.with_targets([config.target]))
        records = [record for split in cut(sources, ROWS_AT_A_TIME) for record in read_split(split)]
    molecules = [record for record in records if isinstance(record, RawMolecule)]
    for record in records:
        if isinstance(record, Rejection):
            raise DataError(_refused(record))
    return molecules, np.array([record.targets[0] for record in molecules])


def _smiles(molecule: RawMolecule) -> str:
    """The SMILES of a molecule: as it is given, or else of its bond graph.

    Raises:
        DataError: there is no bond graph.
    """
    if molecule.format == "smiles":
        return molecule.text
    found = describe(molecule, FeaturizeConfig(descriptors="none"))
    if isinstance(found, Rejection):
        raise DataError(_refused(found))
    return found.sample.smiles


def _refused(record: Rejection) -> str:
    return (
        f"{record.source}, row {record.row}, cannot be evaluated: {record.reason}: {in_words(record.detail)}. Mend or "
        "remove the row."
    )


def score_table(result: dict[str, object]) -> Table:
    """The scores as a table for a terminal."""
    table = Table(title=f"{result['input']}: {result['target']}, {result['split']}, ridge on frozen vectors")
    for column in ("representation", "RMSE", "MAE", "R2", "train/valid/test"):
        table.add_column(column, justify="left" if column == "representation" else "right")
    for score in result["scores"]:  # type: ignore[attr-defined]
        numbers = [f"{score[key]:.3f}" for key in ("rmse", "mae", "r2")]
        table.add_row(score["representation"], *numbers, "/".join(map(str, score["molecules"])))
    return table
