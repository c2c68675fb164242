"""Scikit-learn transformer from molecules to the vectors of an export; needs neither Ray nor DeepSpeed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import InputTags, Tags

from molstream.errors import ConfigError, DataError
from molstream.preprocessing.config import DescriptorSet, FeaturizeConfig
from molstream.preprocessing.descriptors import descriptor_names
from molstream.preprocessing.fields import MoleculeSample, RawMolecule, Rejection
from molstream.training.inference.atoms import Atoms, atoms_of
from molstream.training.inference.cache import VectorCache, fingerprint, vector_cache, vectors_of
from molstream.training.inference.device import device_named
from molstream.training.inference.embedded import Embedded, Vector, outcomes
from molstream.training.inference.encoding import UNDRAWN, Encoding, content
from molstream.training.inference.featurizing import Featurize, featurizing
from molstream.training.inference.inputs import Record, checked, conformer_records, records
from molstream.training.inference.parameters import check_parameters
from molstream.training.inference.pretrained import SPATIAL, PretrainedEncoders, load_pretrained
from molstream.training.metrics.console import progress_when_long
from molstream.training.models.encoders import Encoders
from molstream.training.shipped import MINI


class MoleculeEmbedder(TransformerMixin, BaseEstimator):
    """Computes molecular vectors with the frozen encoders of an export or a run.

    Molecules are featurized exactly like the training data, so that all SMILES of a molecule give the same vector.

    Args:
        path: folder written by ``molstream export``, or a run directory, whose newest checkpoint is used; or an export
            at a hub or URL, as ``org/name``, ``mlflow://model-name`` or ``s3://bucket/prefix``, which is downloaded
            once (:func:`~molstream.load_pretrained` has the rules); by default the encoder that travels in molstream.
        representation: ``2d`` (bond graph), ``3d`` (conformer) or ``both``: the vectors of two encoders, concatenated,
            or that of an encoder which sees both at once; ``image`` (drawing). By default all modalities that there
            are, concatenated.
        device: a torch device, or ``auto`` for a GPU if there is one.
        batch_size: number of molecules that are encoded at a time.
        on_error: for molecules that fail, ``nan`` gives a row of NaN, with the reason in ``failures_``; ``raise``
            raises an error at the first one.
        n_jobs: number of child processes that featurize, -1 for one per core. There a molecule that hangs RDKit,
            exhausts the memory or crashes it fails alone. By default this process featurizes, without any bound.
        deadline_s: CPU seconds that a molecule may take in a child process.
        memory_mib: address space of a child process, at least 1024.
        readout: how atoms are pooled: ``mean``, ``sum``, ``max`` or ``mean_sum_max``; by default as the encoders were
            trained.
        num_layers: number of the encoders' layers that are used, the first ones; by default all.
        num_conformers: number of ETKDG conformers that are made of a molecule, whose 3D vectors are averaged. An RDKit
            molecule or record that has 3D conformers is given the mean over all of its own. By default the 3D vector
            is that of one conformer, the first.
        cache: folder, for this user alone, where :meth:`transform` keeps vectors from one call or process to the next.
            Weights, featurizer, options and the text or conformers of a molecule tell them apart; the device and the
            batches do not, which change the last digits.
        descriptors: whether RDKit's 200 descriptors follow the vector (``DESCRIPTORS_V1`` of
            ``molstream/preprocessing/descriptors.py``), unscaled; NaN where RDKit has no value, such as partial charges
            of a molecule with a metal. They take 3 ms per molecule.
        revision: branch, tag or commit of Hugging Face, version or alias of MLflow; by default the newest one.

    Attributes:
        failures_: {row: reason} of the last ``transform``.
    """

    def __init__(
        self,
        path: str | Path = MINI,
        representation: str | None = None,
        device: str = "auto",
        batch_size: int = 256,
        on_error: str = "nan",
        n_jobs: int | None = None,
        deadline_s: float = 60.0,
        memory_mib: int = 4096,
        readout: str | None = None,
        num_layers: int | None = None,
        num_conformers: int | None = None,
        cache: str | Path | None = None,
        descriptors: bool = False,
        revision: str | None = None,
    ):
        self.path = path
        self.representation = representation
        self.device = device
        self.batch_size = batch_size
        self.on_error = on_error
        self.n_jobs = n_jobs
        self.deadline_s = deadline_s
        self.memory_mib = memory_mib
        self.readout = readout
        self.num_layers = num_layers
        self.num_conformers = num_conformers
        self.cache = cache
        self.descriptors = descriptors
        self.revision = revision

    @classmethod
    def from_pretrained(cls, path: str | Path = MINI, **options: Any) -> "MoleculeEmbedder":
        """Create an embedder and load its model at once, so that a damaged export raises here.

        Raises:
            CheckpointError: ``path`` is neither an export nor a run, or damaged; a hub has no such export or revision.
            ConfigError: an option has no possible value, or a hub denies access.
            RemoteError: a hub does not answer.
        """
        embedder = cls(path, **options)
        embedder._load()
        return embedder

    def fit(self, X: Any, y: object = None) -> "MoleculeEmbedder":
        """Load the model and check the type of ``X``, so that pipelines fail early; nothing is fitted.

        Raises:
            TypeError: ``X`` is nothing that :meth:`transform` takes. An iterator is not looked into.
        """
        self._load()
        checked(X)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit, tags.no_validation = False, True
        tags.input_tags = InputTags(one_d_array=True, two_d_array=False, string=True, allow_nan=True)
        return tags

    def transform(self, X: Any) -> np.ndarray:
        """Compute vectors, float32 [g, d]; row i is of input i, NaN if it failed. Descriptors, if any, come last.

        Args:
            X: SMILES, molecules of RDKit or records of files (``RawMolecule``), in a list, tuple, iterator,
                one-dimensional array, Series, or frame of one column; or a single one. The first 3D conformer of an
                RDKit molecule is used, if it has one; with ``num_conformers`` all are, and it fails if one of them is
                not of this molecule. A missing value (None, NaN) is a molecule that fails.

        Raises:
            TypeError: ``X`` is something else, or holds it: a frame of several columns, a 2-D array, bytes, numbers.
            DataError: a molecule failed and ``on_error="raise"``; or the cache is damaged, or cannot be used.
        """
        width = self._width()
        molecules = self._records(X)
        vectors = np.full((len(molecules), width), np.nan, np.float32)
        self.failures_: dict[int, str] = {}
        done = 0
        with (
            self._cached() as cache,
            self.featurizing(with_keys=False) as featurize_all,
            progress_when_long("molecules", len(molecules)) as tell,
        ):

            def compute(part: Sequence[Sequence[Record]]) -> list[Vector]:
                flat = [record for molecule in part for record in molecule]
                share = len(part) / len(flat)
                found = self.embed_records(flat, featurize_all, lambda number: tell(done + share * number))
                return found.of_molecules(part)

            for row, vector in vectors_of(molecules, cache, compute):
                done += 1
                if isinstance(vector, str):
                    self._fail(row, molecules[row][0].text, vector)
                else:
                    vectors[row] = vector
        self.failures_ = dict(sorted(self.failures_.items()))
        return vectors

    def transform_atoms(self, X: Any) -> list[np.ndarray]:
        """Compute the vectors of atoms before they are pooled, in the order of the input's atoms.

        Equivalent atoms have the mean of their vectors, in the 3D part unless the conformer is the input's own. Atoms
        that differ in the drawing of the molecule alone, as the oxygens of a carboxylate or a nitro group, have
        vectors that differ; if standardization draws them anew, which is whose is its choice.

        Args:
            X: as :meth:`transform` takes it. The atoms of a SMILES are those of ``Chem.MolFromSmiles``, those of an
                RDKit molecule, a mol block or a geometry record its own, hydrogens included.

        Returns:
            For every input, float32 [m, d] of its m atoms; d is the sum of the widths of the encoders, since nothing
            is pooled, and no descriptor is one of an atom. NaN for atoms that standardization removes: hydrogens,
            counter-ions, solvent. A molecule that fails has no row, [0, d], and its reason in ``failures_``.

        Raises:
            TypeError: as :meth:`transform`.
            ConfigError: only drawings are encoded, which have no atoms.
            DataError: a molecule failed and ``on_error="raise"``.
        """
        encoding, items = self._encoding(), list(checked(X))
        if not encoding.atom_widths:
            raise ConfigError("representation='image': a drawing has no atoms. Use another representation.")
        groups = self._records(items)
        inputs = [(item, record) for item, group in zip(items, groups, strict=True) for record in group]
        config = replace(self._featurize_config(encoding.pretrained.featurize), descriptors="none")
        found: list[Atoms] = []
        with (
            featurizing(config, self.n_jobs, self.deadline_s, self.memory_mib, with_keys=False) as featurize_all,
            progress_when_long("molecules", len(inputs)) as tell,
        ):
            for results in self._featurized([record for _, record in inputs], featurize_all):
                found += atoms_of([inputs[row] for row in results], list(results.values()), encoding, config)
                tell(len(found))
        self.failures_ = {}
        molecules = outcomes(groups, [each.smiles for each in found], [each.failure for each in found])
        atoms = []
        for row, (part, failure) in enumerate(molecules):
            if failure is None:
                atoms.append(np.mean([each.rows for each in found[part]], axis=0))
            else:
                self._fail(row, groups[row][0].text, failure)
                atoms.append(found[part.start].rows[:0])
        return atoms

    def _fail(self, row: int, text: str, failure: str) -> None:
        """Keep the failure of a molecule.

        Raises:
            DataError: ``on_error`` is ``raise``.
        """
        if self.on_error == "raise":
            raise DataError(f"row {row}, {text!r}: {failure}. Use on_error='nan' to get NaN instead.")
        self.failures_[row] = failure

    def featurizing(self, with_keys: bool = True) -> AbstractContextManager[Featurize]:
        """What featurizes the molecules of this embedder while the body runs: this process, or ``n_jobs`` others.

        Args:
            with_keys: False leaves the keys of molecules empty where no vector depends on them, which saves time.

        Raises:
            ConfigError: a parameter has no possible value.
            CheckpointError: ``path`` is neither an export nor a run, or damaged.
        """
        config = self._featurize_config(self._load().featurize)
        return featurizing(config, self.n_jobs, self.deadline_s, self.memory_mib, with_keys)

    def embed_records(
        self,
        raws: Sequence[RawMolecule | Rejection],
        featurize_all: Featurize,
        tell: Callable[[int], None] = lambda number: None,
    ) -> Embedded:
        """Compute the vectors of records as a file's reader gives them, with the identity of every molecule.

        Molecules that fail are in the result, whatever ``on_error`` is.

        Args:
            featurize_all: from :meth:`featurizing`.
            tell: called with the number of records that are done, after every batch.
        """
        encoding = self._encoding()
        found = Embedded.failed(len(raws), self._width())
        seen: dict[bytes, int] = {}
        for results in self._featurized(raws, featurize_all):
            samples = {row: result for row, result in results.items() if isinstance(result, MoleculeSample)}
            for row, result in results.items():
                if isinstance(result, Rejection):
                    found.failures[row] = f"{result.stage}: {result.reason}: {result.detail}"
                else:
                    found.smiles[row], found.keys[row] = result.smiles, result.key
            # What is equal is encoded once: the place in a batch moves the last bits of a vector.
            drawn = encoding.pretrained.image_size is not None
            first = {row: seen.setdefault(content(sample, drawn), row) for row, sample in samples.items()}
            new = [row for row in first if first[row] == row]
            if new:
                vectors = encoding.rows([samples[row] for row in new])
                found.vectors[new] = np.hstack([vectors, [samples[row].descriptors for row in new]])
            found.vectors[list(first)] = found.vectors[list(first.values())]
            if drawn:
                rows = np.array(list(first), np.int64)
                missing = np.isnan(found.vectors[rows, : encoding.pretrained.width]).all(axis=1)
                found.fail(rows[missing].tolist(), UNDRAWN)
            tell(max(results) + 1)
        return found

    def _featurized(
        self, raws: Sequence[Record], featurize_all: Featurize
    ) -> Iterator[dict[int, MoleculeSample | Rejection]]:
        """The results of records by row, as many at a time as are encoded together."""
        featurized = featurize_all(replace(raw, targets=()) for raw in raws if isinstance(raw, RawMolecule))
        for start in range(0, len(raws), self.batch_size):
            batch = enumerate(raws[start : start + self.batch_size], start)
            yield {row: raw if isinstance(raw, Rejection) else next(featurized) for row, raw in batch}

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        """Return the names of the columns, for ``set_output``; descriptors have RDKit's names."""
        pretrained = self._load()
        name = self.representation or "_".join(pretrained.widths)
        names = [f"molecule_{name}_{k}" for k in range(pretrained.width)]
        return np.array([*names, *descriptor_names(self._descriptor_set)], dtype=object)

    def untrained(self, seed: int) -> "MoleculeEmbedder":
        """Return this embedder with newly initialised weights: the baseline of pretraining."""
        other = MoleculeEmbedder(**self.get_params())
        own = self._load()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoders = Encoders(own.model).eval()
        other._pretrained = PretrainedEncoders(encoders, own.model, own.featurize, own.description, *self._chosen[1:])
        other._loaded = self._chosen
        return other

    @property
    def description(self) -> dict[str, Any]:
        """Return the origin of the weights: an export's config.json, or a run's configuration and step."""
        return self._load().description

    def _load(self) -> PretrainedEncoders:
        """The encoders on the device; loaded again after ``set_params`` has changed what is loaded.

        Raises:
            ConfigError: a parameter has no possible value.
            CheckpointError: ``path`` is neither an export nor a run, or damaged.
        """
        check_parameters(self.get_params(deep=False))
        device = device_named(self.device)
        if getattr(self, "_loaded", None) != self._chosen:
            self._pretrained = load_pretrained(
                self.path,
                revision=self.revision,
                representation=self.representation,
                readout=self.readout,
                num_layers=self.num_layers,
            )
            self._loaded = self._chosen
        if self.num_conformers is not None and not SPATIAL & self._pretrained.widths.keys():
            raise ConfigError(
                f"num_conformers={self.num_conformers}: no vector depends on conformers, since only the 2D encoder is "
                "used. Leave it out, or use another representation."
            )
        return self._pretrained.to(device)

    @property
    def _chosen(self) -> tuple[Any, ...]:
        """What the loaded encoders depend on: their source, and the last arguments of :class:`PretrainedEncoders`."""
        return (self.path, self.revision), self.representation, self.readout, self.num_layers

    def _featurize_config(self, trained_on: FeaturizeConfig) -> FeaturizeConfig:
        """Adapt the training data's featurizer: no conformers for the graph encoder alone, otherwise at least one."""
        needs_conformer = bool(SPATIAL & self._load().widths.keys())
        number = self.num_conformers or max(1, trained_on.conformers.num_conformers)
        conformers = replace(
            trained_on.conformers,
            num_conformers=number if needs_conformer else 0,
            require_conformer=needs_conformer,
        )
        return replace(trained_on, conformers=conformers, descriptors=self._descriptor_set)

    @property
    def _descriptor_set(self) -> DescriptorSet:
        return "rdkit2d" if self.descriptors else "none"

    def _width(self) -> int:
        """Numbers of a row: the vector's, and one for each descriptor."""
        return self._load().width + len(descriptor_names(self._descriptor_set))

    def _records(self, X: Any) -> list[list[Record]]:
        """The records of every molecule: one, or one for each of its conformers."""
        return [[record] for record in records(X)] if self.num_conformers is None else conformer_records(X)

    def _cached(self) -> AbstractContextManager[VectorCache | None]:
        """The cache of these vectors while the body runs, if there is one."""
        if self.cache is None:
            return nullcontext()
        pretrained = self._load()
        choices = {"representation": list(pretrained.widths), "readout": self.readout, "num_layers": self.num_layers}
        choices["num_conformers"] = self.num_conformers
        key = fingerprint(pretrained, self._featurize_config(pretrained.featurize), choices)
        return vector_cache(self.cache, key, self._width())

    def _encoding(self) -> Encoding:
        return Encoding(self._load(), device_named(self.device), self.num_conformers is not None, self.batch_size)
