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
from molstream.training.inference.pretrained import PretrainedEncoders, load_pretrained
from molstream.training.models.encoders import Encoders

REPRESENTATIONS = {"2d": ("2d",), "3d": ("3d",), "both": ("2d", "3d")}
"""The encoders whose representations stand side by side in a vector."""


class MoleculeEmbedder(TransformerMixin, BaseEstimator):
    """Frozen molecular vectors from an export or a run.

    The molecules go through exactly the featurizer that made the training data, so any spelling of a molecule gives
    the same vector.

    Args:
        path: folder written by ``molstream export``, or a run directory, whose newest checkpoint is used.
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
            CheckpointError: ``path`` is neither an export nor a run, or damaged.
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
        pretrained = self._load()
        # A bare string is iterable too, and would be embedded letter by letter.
        items = [X] if isinstance(X, str) else X
        raws = [
            i if isinstance(i, RawMolecule) else RawMolecule(str(i), "smiles", "", row) for row, i in enumerate(items)
        ]
        config = self._featurize_config(pretrained.featurize)
        vectors = np.full((len(raws), self._width(pretrained)), np.nan, np.float32)
        self.failures_: dict[int, str] = {}
        for start in range(0, len(raws), self.batch_size):
            rows, samples = self._featurize(raws, range(start, min(start + self.batch_size, len(raws))), config)
            if samples:
                vectors[rows] = self._encode(pretrained, samples)
        return vectors

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        """Names of the columns, for ``set_output``."""
        width = self._width(self._load())
        return np.array([f"molecule_{self.representation}_{k}" for k in range(width)], dtype=object)

    def untrained(self, seed: int) -> "MoleculeEmbedder":
        """The same embedder with freshly initialised weights: the baseline of every claim about pretraining."""
        other = MoleculeEmbedder(**self.get_params())
        own = self._load()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoders = Encoders(own.model).eval()
        other._pretrained = PretrainedEncoders(encoders, own.model, own.featurize, own.description)
        return other

    @property
    def description(self) -> dict[str, Any]:
        """Where the weights come from: an export's config.json, a run's configuration and step."""
        return self._load().description

    def _load(self) -> PretrainedEncoders:
        """All encoders, whatever the representation, which may be set later, on the device."""
        if self.representation not in REPRESENTATIONS:
            raise ConfigError(f"representation={self.representation!r}: expected one of {', '.join(REPRESENTATIONS)}.")
        if self.on_error not in ("nan", "raise"):
            raise ConfigError(f"on_error={self.on_error!r}: expected nan or raise.")
        device = device_named(self.device)
        if not hasattr(self, "_pretrained"):
            self._pretrained = load_pretrained(self.path)
        return self._pretrained.to(device)

    def _width(self, pretrained: PretrainedEncoders) -> int:
        return sum(pretrained.widths[name] for name in REPRESENTATIONS[self.representation])

    def _featurize_config(self, trained_on: FeaturizeConfig) -> FeaturizeConfig:
        """The training data's featurizer; the graph encoder alone needs no conformer, the others cannot do without."""
        needs_conformer = self.representation != "2d"
        conformers = replace(
            trained_on.conformers,
            num_conformers=max(1, trained_on.conformers.num_conformers) if needs_conformer else 0,
            require_conformer=needs_conformer,
        )
        return replace(trained_on, conformers=conformers)

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

    def _encode(self, pretrained: PretrainedEncoders, samples: Sequence[MoleculeSample]) -> np.ndarray:
        """Pooled representations, the 3D part of the first conformer, float32 [g, d]."""
        batch = collate_samples(samples).to(device_named(self.device))
        with torch.inference_mode():
            parts = pretrained.molecules(batch, REPRESENTATIONS[self.representation])
            return torch.cat(list(parts.values()), dim=1).float().cpu().numpy()
