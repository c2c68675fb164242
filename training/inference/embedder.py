"""Scikit-learn transformer from SMILES to the vectors of an export; needs neither Ray nor DeepSpeed."""

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
"""Encoders whose representations are concatenated to the vector, by the name of the representation."""


class MoleculeEmbedder(TransformerMixin, BaseEstimator):
    """Computes molecular vectors with the frozen encoders of an export or a run.

    Molecules are featurized exactly like the training data, so that all SMILES of a molecule give the same vector.

    Args:
        path: folder written by ``molstream export``, or a run directory, whose newest checkpoint is used.
        representation: ``2d`` (graph encoder), ``3d`` (conformer encoder) or ``both``, concatenated.
        device: a torch device, or ``auto`` for a GPU if there is one.
        batch_size: number of molecules that are encoded at a time.
        on_error: for molecules that fail, ``nan`` gives a row of NaN, with the reason in ``failures_``; ``raise``
            raises an error at the first one.

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
        """Create an embedder and load its model at once, so that a damaged export raises here.

        Raises:
            CheckpointError: ``path`` is neither an export nor a run, or damaged.
        """
        embedder = cls(path, **options)
        embedder._load()
        return embedder

    def fit(self, X: Iterable[str | RawMolecule], y: object = None) -> "MoleculeEmbedder":
        """Load the model, so that pipelines fail early; nothing is fitted."""
        self._load()
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def transform(self, X: Iterable[str | RawMolecule]) -> np.ndarray:
        """Compute vectors, float32 [g, d], of SMILES or records of a file; row i is of input i, NaN if it failed.

        Raises:
            DataError: a molecule failed and ``on_error="raise"``.
        """
        pretrained = self._load()
        # A string is iterable too, and would be embedded letter by letter.
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
        """Return the names of the columns, for ``set_output``."""
        width = self._width(self._load())
        return np.array([f"molecule_{self.representation}_{k}" for k in range(width)], dtype=object)

    def untrained(self, seed: int) -> "MoleculeEmbedder":
        """Return this embedder with newly initialised weights: the baseline of pretraining."""
        other = MoleculeEmbedder(**self.get_params())
        own = self._load()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoders = Encoders(own.model).eval()
        other._pretrained = PretrainedEncoders(encoders, own.model, own.featurize, own.description)
        return other

    @property
    def description(self) -> dict[str, Any]:
        """Return the origin of the weights: an export's config.json, or a run's configuration and step."""
        return self._load().description

    def _load(self) -> PretrainedEncoders:
        """Load all encoders to the device, since the representation may be changed later."""
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
        """Adapt the training data's featurizer: no conformers for the graph encoder alone, otherwise at least one."""
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
                    raise DataError(f"row {row}, {raws[row].text!r}: {reason}. Use on_error='nan' to get NaN instead.")
                self.failures_[row] = reason
            else:
                kept.append(row)
                samples.append(result)
        return kept, samples

    def _encode(self, pretrained: PretrainedEncoders, samples: Sequence[MoleculeSample]) -> np.ndarray:
        """Compute pooled representations, float32 [g, d]; the 3D part is that of the first conformer."""
        batch = collate_samples(samples).to(device_named(self.device))
        with torch.inference_mode():
            parts = pretrained.molecules(batch, REPRESENTATIONS[self.representation])
            return torch.cat(list(parts.values()), dim=1).float().cpu().numpy()
