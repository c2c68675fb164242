"""Pretrained encoders as a PyTorch module, for fine-tuning, probing or use in another network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from molstream.errors import CheckpointError, ConfigError, DataError
from molstream.preprocessing.config import FeaturizeConfig
from molstream.training.data.batch import MoleculeBatch
from molstream.training.hubs.source import resolved
from molstream.training.inference.device import device_named
from molstream.training.inference.export import CONFIG_FILE, load_export
from molstream.training.models.config import ModelConfig, spoken
from molstream.training.models.encoders import Encoders, encode, truncate
from molstream.training.models.readout import READOUTS
from molstream.training.shipped import MINI

if TYPE_CHECKING:
    from torch_geometric.data import Batch

RUN_FILE = "config.yaml"
NUM_ATOM_FEATURES = 9
SPATIAL = frozenset({"3d", "both"})
"""Representations that need positions."""
IMAGE = "image"
"""The representation of molecules' drawings, which has no atoms."""


class PretrainedEncoders(nn.Module):
    """Encoders with a readout, which compute representations of batches of molecules.

    :func:`load_pretrained` creates it. A batch is one of :class:`~molstream.training.data.dataset.MoleculeDataset`,
    or a :class:`~molstream.training.data.batch.MoleculeBatch`, on the device of the module. Symbols: g molecules, n
    atoms, d the width of a representation. Outputs are float32 and differentiable in the parameters.

    Args:
        encoders: shared with this module, not copied; their training mode is kept.
        model: configuration of the encoders.
        featurize: featurizer of the molecules that they were trained on.
        description: origin of the weights.
        representation: what :meth:`forward` returns: ``2d``, ``3d``, ``both``, ``image``, or None for a dict.
        readout: how atoms are pooled, a name of ``READOUTS``; by default as each encoder was trained.
        num_layers: number of the encoders' layers that are used; by default all.

    Attributes:
        widths: {name: d} of the molecules' vectors by the encoders that this module has.
        width: sum of the widths, which is the width of the tensor that ``forward`` returns.
        image_size: height and width of the images that batches must have; None if no encoder of these sees images.

    Raises:
        ConfigError: ``representation`` or ``readout`` is unknown, or there are no such encoders or layers.
    """

    def __init__(
        self,
        encoders: Encoders,
        model: ModelConfig,
        featurize: FeaturizeConfig,
        description: Mapping[str, Any],
        representation: str | None = None,
        readout: str | None = None,
        num_layers: int | None = None,
    ):
        super().__init__()
        self.model, self.featurize, self.description = model, featurize, dict(description)
        self.representation, self.readout = representation, readout
        names = offered(model, representation)
        self.encoders = nn.ModuleDict({name: encoders.encoder(name) for name in names})
        if readout not in (None, *READOUTS):
            raise ConfigError(f"readout={readout!r}: expected one of {', '.join(READOUTS)}, or None.")
        if num_layers is not None:
            for encoder in set(self.encoders.values()):
                truncate(encoder, num_layers)
        self.widths: dict[str, int] = {name: model.readout_width(name, readout) for name in names}
        self.width: int = sum(self.widths.values())
        self.image_size: int | None = model.image_size if IMAGE in names else None
        self.train(encoders.training)

    def forward(self, batch: "Batch | MoleculeBatch") -> Tensor | dict[str, Tensor]:
        """Compute representations of molecules: those of their atoms, pooled.

        Returns:
            [g, d] for the representation ``2d``, ``3d`` or ``image``; for ``both`` [g, d2 + d3], the 2D part first, or
            [g, d] of an encoder that sees both at once; ``{"2d": [g, d2], "3d": [g, d3]}`` for None.

        Raises:
            DataError: this is no batch of featurized molecules, or one has no positions, which the 3D encoder needs, or
                no image, which the image encoder needs.
        """
        parts = self.molecules(batch)
        return parts if self.representation is None else torch.cat(list(parts.values()), dim=1)

    def molecules(self, batch: "Batch | MoleculeBatch", names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Compute representations of molecules, ``{name: [g, d]}``.

        Args:
            batch: as for :meth:`nodes`; with ``images`` for the image encoder.
            names: names of the representations to compute, from ``widths``; all by default.

        Raises:
            DataError: as :meth:`forward`.
        """
        graphs: Any = batch
        names = list(self.widths) if names is None else names
        nodes = self.nodes(batch, [name for name in names if name != IMAGE])
        found = {name: self._readout(name)(rows, graphs.batch, graphs.num_graphs) for name, rows in nodes.items()}
        if IMAGE in names:
            found[IMAGE] = self._images(batch)
        return {name: found[name] for name in names}

    def _images(self, batch: "Batch | MoleculeBatch") -> Tensor:
        """Compute the representations of images, [g, d]."""
        assert self.image_size is not None
        _require_images(batch, self.image_size)
        graphs: Any = batch
        return self._encoder(IMAGE)(graphs.images)

    def nodes(self, batch: "Batch | MoleculeBatch", names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Compute representations of atoms, before pooling, ``{name: [n, d]}``.

        Args:
            batch: with ``x``, ``edge_index``, ``edge_attr``, ``batch`` and, for the 3D encoder, ``pos``.
            names: names of the representations to compute, from ``widths``; by default all but that of images, which
                have no atoms.

        Raises:
            DataError: this is no batch of featurized molecules, or one has no positions, which the 3D encoder needs.
        """
        names = [name for name in self.widths if name != IMAGE] if names is None else names
        _require_graphs(batch)
        if set(names) & SPATIAL:
            _require_positions(batch)
        return {name: encode(self._encoder(name), name, batch) for name in names}

    def _readout(self, name: str) -> Callable[[Tensor, Tensor, int], Tensor]:
        return self._encoder(name).readout if self.readout is None else READOUTS[self.readout]

    def _encoder(self, name: str) -> Any:
        # Any: encoders share `readout`, which nn.Module does not know.
        return self.encoders[name]


def offered(model: ModelConfig, representation: str | None) -> tuple[str, ...]:
    """The parts of a representation, ``2d``, ``3d``, ``both``, ``image``, or None for all modalities of the model.

    Both, which is 2d and 3d, are two parts of a model with two encoders, and one part of a model whose encoder sees
    both at once.

    Raises:
        ConfigError: it is unknown, or the model lacks an encoder of it.
    """
    own = tuple(sorted(model.encoders()))
    both = ("both",) if model.encoder_both else ("2d", "3d")
    choices = {"2d": ("2d",), "3d": ("3d",), "both": both, IMAGE: (IMAGE,), None: own}
    if representation not in choices:
        raise ConfigError(f"representation={representation!r}: expected 2d, 3d or both, or image.")
    names = choices[representation]
    if missing := [name for name in names if name not in (*own, "both")]:
        raise ConfigError(
            f"representation={representation!r}: the model has no {spoken(missing[0])} encoder. It offers "
            f"{' and '.join(own)}."
        )
    return names


def load_pretrained(
    source: str | Path = MINI,
    *,
    revision: str | None = None,
    representation: str | None = None,
    step: int | None = None,
    device: str = "cpu",
    readout: str | None = None,
    num_layers: int | None = None,
) -> PretrainedEncoders:
    """Load the encoders of an export or of a pretraining run as a PyTorch module.

    ::

        encoder = load_pretrained("runs/mine/export", representation="2d")
        model = nn.Sequential(encoder, nn.Linear(encoder.width, 1)).train()
        predicted = model(batch)  # [g, 1]

    The module is in evaluation mode, for use as frozen encoders; all its parameters require gradients, so that it can
    be fine-tuned after ``.train()``. Weights are loaded strictly: every name and shape must match.

    Args:
        source: folder that ``molstream export`` wrote, or a run directory of ``molstream pretrain``; an export at a
            hub or URL, which is downloaded once: ``org/name`` or ``hf://org/name`` (Hugging Face),
            ``mlflow://model-name``, ``s3://bucket/prefix``, ``https://...``; by default the encoder that travels in
            molstream. A folder that exists goes before a repository of its name.
        revision: branch, tag or commit of Hugging Face, version or alias of MLflow; by default the newest one.
        representation: ``2d`` loads the graph encoder alone, ``3d`` the conformer encoder alone, ``image`` that of
            drawings; with these and with ``both`` the module returns one tensor, with None a dict of all encoders that
            there are.
        step: step of a run's checkpoint; by default the newest intact one. If the run keeps an EMA of its weights
            (``optim.ema_decay``), the EMA is loaded.
        device: a torch device, or ``auto`` for a GPU if there is one.
        readout: how atoms are pooled: ``mean``, ``sum``, ``max`` or ``mean_sum_max``; by default as each encoder was
            trained.
        num_layers: number of layers that are used, the first ones; by default all. An earlier layer may give the
            better frozen vectors (arXiv 2506.06443).

    Raises:
        CheckpointError: ``source`` is neither an export nor a run, is damaged, of another version, or has no such step.
        ConfigError: the representation, readout or device is unknown, the model lacks such an encoder or layer, a step
            is given for an export or a revision for a folder, or a hub denies access.
        RemoteError: a hub does not answer.
    """
    where = device_named(device)
    folder, _ = resolved(source, "the encoder", revision)
    if (folder / CONFIG_FILE).is_file():
        if step is not None:
            raise ConfigError(
                f"step={step}: {folder} is an export, which has one step. Give the run directory instead."
            )
        export = load_export(folder)
        parts = export.encoders, export.model, export.featurize, export.config
    elif (folder / RUN_FILE).is_file():
        from molstream.training.inference.trained import load_trained

        trained = load_trained(folder, step, where)
        description = {
            "run_dir": str(folder),
            "step": trained.state.step,
            "config": asdict(trained.config),
            "training": {"dataset_fingerprint": trained.state.dataset_fingerprint},
        }
        parts = trained.module.encoders, trained.config.model, trained.featurize, description
    else:
        raise CheckpointError(
            f"{folder} is neither an export nor a run: expected a folder with {CONFIG_FILE}, as written by "
            f"`molstream export`, or with {RUN_FILE}, as written by `molstream pretrain`."
        )
    return PretrainedEncoders(*parts, representation, readout, num_layers).to(where)


def _require_graphs(batch: "Batch | MoleculeBatch") -> None:
    """Check that a batch consists of molecules as molstream featurizes them.

    Raises:
        DataError: the atom features have another dtype or shape, or ``batch.batch`` is missing.
    """
    x = getattr(batch, "x", None)
    if x is None or x.dim() != 2 or x.shape[1] != NUM_ATOM_FEATURES or x.is_floating_point():
        found = "nothing" if x is None else f"{x.dtype} {list(x.shape)}"
        raise DataError(
            f"batch.x is {found}: expected int64 [n, {NUM_ATOM_FEATURES}], the atom features of molstream.featurize "
            "and MoleculeDataset."
        )
    if getattr(batch, "batch", None) is None:
        raise DataError(
            "batch.batch, the molecule of each atom, is missing: expected a batch, not a single "
            "molecule. Use torch_geometric.data.Batch.from_data_list([molecule])."
        )


def _require_positions(batch: "Batch | MoleculeBatch") -> None:
    """Check that every molecule of a batch has positions.

    Raises:
        DataError: a molecule has no positions.
    """
    advice = (
        "Remove the molecules without positions (batch.has_pos is False), preprocess with "
        "featurize.conformers.require_conformer=true, or load the encoders with representation='2d'."
    )
    if getattr(batch, "pos", None) is None:
        raise DataError(f"the batch has no positions (batch.pos), which the 3D encoder needs. {advice}")
    has_pos = getattr(batch, "has_pos", None)
    if has_pos is not None and not bool(has_pos.all()):
        raise DataError(f"{_lacking(has_pos, 'have no positions, which the 3D encoder needs')}. {advice}")


def _require_images(batch: "Batch | MoleculeBatch", size: int) -> None:
    """Check that every molecule of a batch has an image of the encoder's size.

    Raises:
        DataError: there are no images, they have another dtype or shape, or a molecule could not be drawn.
    """
    images = getattr(batch, "images", None)
    advice = (
        f"Make batches with MoleculeDataset(..., image_size={size}) or collate_samples(..., image_size={size}), or "
        "load the encoders with representation='2d' or '3d'."
    )
    if images is None or images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, size, size):
        found = "nothing" if images is None else f"{images.dtype} {list(images.shape)}"
        raise DataError(
            f"batch.images is {found}: expected uint8 [g, 3, {size}, {size}] for the image encoder. {advice}"
        )
    has_image = getattr(batch, "has_image", None)
    if has_image is not None and not bool(has_image.all()):
        what = _lacking(has_image, "cannot be drawn, which the image encoder needs")
        raise DataError(f"{what}. Remove them (batch.has_image is False).")


def _lacking(has: Tensor, what: str) -> str:
    """A sentence about molecules of a batch that lack something (``has``, bool [g]): how many, and the first ones."""
    missing = (~has).nonzero().flatten().tolist()
    numbers = f"{', '.join(map(str, missing[:5]))}{', ...' if len(missing) > 5 else ''}"
    return f"{len(missing)} of {len(has)} molecules of the batch {what}: numbers {numbers}"
