"""SMILES in, vectors out: a scikit-learn transformer over an export; needs neither Ray nor DeepSpeed."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin

from molstream.errors import ConfigError, DataError
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule, Rejection
from molstream.training.data.collate import collate_samples
from molstream.training.inference.device import device_named
from molstream.training.inference.export import Export, load_export
from molstream.training.models.encoders import Encoders

REPRESENTATIONS = ("2d", "3d", "both")


class MoleculeEmbedder(TransformerMixin, BaseEstimator):
    """Frozen molecular vectors from an export.

    The molecules go through exactly the featurizer that made the training data, so any spelling of a molecule gives
    the same vector.

    Args:
        path: folder written by ``molstream export``.
        representation: ``2d`` (graph encoder), ``3d`` (conformer encoder) or ``both``, one after the other.
        device: a torch device, or ``auto`` for a GPU where there is one.
        batch_size: molecules that are encoded at a time.
        on_error: ``nan`` gives a row of NaN for a molecule that fails and its reason in ``failures_``; ``raise``
            raises on the first.

    Attributes:
        failures_: {row: reason} of the last ``transform``.
    """

    def __init__(
        self,
        path: str | Path,
        representation: str = "both",
        device: str = "auto",
        batch_size: int = 256,
        on_error: str = "nan",
    ):
        self.path = path
        self.representation = representation
        self.device = device
        self.batch_size = batch_size
        self.on_error = on_error

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> "MoleculeEmbedder":
        """An embedder whose model is loaded now, so that a damaged export is noticed here.

        Raises:
            CheckpointError: ``path`` is not an export, or damaged.
        """
        embedder = cls(path, **options)
        embedder._load()
        return embedder

    def fit(self, X: Iterable[str | RawMolecule], y: object = None) -> "MoleculeEmbedder":
        """Nothing to learn; loads the model, so that pipelines fail early."""
        self._load()
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def transform(self, X: Iterable[str | RawMolecule]) -> np.ndarray:
        """Vectors, float32 [g, d], of SMILES (or records of a file); row i belongs to input i, NaN where it failed.

        Raises:
            DataError: with ``on_error="raise"``, on the first molecule that fails.
        """
        export, device = self._load()
        # A bare string is iterable too, and would be embedded letter by letter.
        items = [X] if isinstance(X, str) else X
        raws = [
            i if isinstance(i, RawMolecule) else RawMolecule(str(i), "smiles", "", row) for row, i in enumerate(items)
        ]
        config = self._featurize_config(export)
        vectors = np.full((len(raws), self._width(export)), np.nan, np.float32)
        self.failures_: dict[int, str] = {}
        for start in range(0, len(raws), self.batch_size):
            rows, samples = self._featurize(raws, range(start, min(start + self.batch_size, len(raws))), config)
            if samples:
                vectors[rows] = self._encode(export.encoders, samples, device)
        return vectors

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        """Names of the columns, for ``set_output``."""
        width = self._width(self._load()[0])
        return np.array([f"molecule_{self.representation}_{k}" for k in range(width)], dtype=object)

    def untrained(self, seed: int) -> "MoleculeEmbedder":
        """The same embedder with freshly initialised weights: the baseline of every claim about pretraining."""
        other = MoleculeEmbedder(**self.get_params())
        export, device = self._load()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            other._export = replace(export, encoders=Encoders(export.model).eval().to(device))
        return other

    @property
    def description(self) -> dict[str, Any]:
        """The export's config.json."""
        return self._load()[0].config

    def _load(self) -> tuple[Export, torch.device]:
        if self.representation not in REPRESENTATIONS:
            raise ConfigError(f"representation={self.representation!r}: expected one of {', '.join(REPRESENTATIONS)}.")
        if self.on_error not in ("nan", "raise"):
            raise ConfigError(f"on_error={self.on_error!r}: expected nan or raise.")
        device = device_named(self.device)
        if not hasattr(self, "_export"):
            self._export = load_export(self.path)
            self._export.encoders.to(device)
        return self._export, device

    def _width(self, export: Export) -> int:
        sides = ("2d", "3d") if self.representation == "both" else (self.representation,)
        return sum(export.model.width(side) for side in sides)

    def _featurize_config(self, export: Export) -> FeaturizeConfig:
        """The training data's featurizer; the graph encoder alone needs no conformer, the others cannot do without."""
        needs_conformer = self.representation != "2d"
        conformers = replace(
            export.featurize.conformers,
            num_conformers=max(1, export.featurize.conformers.num_conformers) if needs_conformer else 0,
            require_conformer=needs_conformer,
        )
        return replace(export.featurize, conformers=conformers)

    def _featurize(
        self, raws: Sequence[RawMolecule], rows: Iterable[int], config: FeaturizeConfig
    ) -> tuple[list[int], list[MoleculeSample]]:
        kept, samples = [], []
        for row in rows:
            result = featurize(replace(raws[row], targets=()), config)
            if isinstance(result, Rejection):
                reason = f"{result.stage}: {result.reason}: {result.detail}"
                if self.on_error == "raise":
                    raise DataError(f"row {row}, {raws[row].text!r}: {reason}. Use on_error='nan' to go on without it.")
                self.failures_[row] = reason
            else:
                kept.append(row)
                samples.append(result)
        return kept, samples

    def _encode(self, encoders: Encoders, samples: Sequence[MoleculeSample], device: torch.device) -> np.ndarray:
        """Pooled encodings, the 3D part of the first conformer, float32 [g, d]."""
        batch = collate_samples(samples, np.zeros(len(samples), np.uint64)).to(device)
        encoder_2d: Any = encoders.encoder_2d
        encoder_3d: Any = encoders.encoder_3d
        with torch.inference_mode():
            parts = []
            if self.representation != "3d":
                nodes = encoder_2d(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
                parts.append(encoder_2d.readout(nodes, batch.batch, batch.num_graphs))
            if self.representation != "2d":
                nodes = encoder_3d(batch.x[:, 0], batch.pos, batch.batch)
                parts.append(encoder_3d.readout(nodes, batch.batch, batch.num_graphs))
            return torch.cat(parts, dim=1).float().cpu().numpy()
