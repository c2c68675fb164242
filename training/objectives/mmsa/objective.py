"""MMSA-style objective: one embedding of the modalities of a molecule, which knows molecules that are like it."""

from typing import NamedTuple

import torch
from torch import Tensor

from molstream.errors import ConfigError
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.labels import Labels
from molstream.training.models.config import ModelConfig
from molstream.training.models.encoders import Encoders
from molstream.training.objectives.base import GlobalBatch, Split, Term
from molstream.training.objectives.global_batch import GlobalObjective
from molstream.training.objectives.mmsa.anchors import entropy_of_mean, mean_entropy
from molstream.training.objectives.mmsa.codes import (
    AutoEncoders,
    alignment_losses,
    compared,
    contrast,
    kept,
    presence,
    spread,
    unified,
)
from molstream.training.objectives.mmsa.config import MMSAConfig
from molstream.training.objectives.mmsa.structure import Seen, Structure

FIELDS_OF = {"2d": {"atom_features", "bond_index", "bond_features"}, "3d": {"atom_features", "positions"}}
"""Stored fields that the encoder of a modality sees."""


class _Last(NamedTuple):
    """What :meth:`MMSA.end_step` needs of the last global batch."""

    seen: Seen
    u: Tensor
    key: Tensor
    warmth: float


class MMSA(GlobalObjective):
    """L = 0.6 L_homogeneity + 0.2 (L_reconstruction + L_cross) + 0.5 L_contrast + w (0.9 L_mem + 0.5 L_inv + L_use).

    The first three are means over a micro-batch, see :func:`~.codes.alignment_losses`. The others are of the global
    batch: a contrast of codes, and the losses of :class:`~.structure.Structure`, whose weight w grows from 0 to 1. A
    molecule's embedding u is the mean of its codes; z, u among those that are like it, mixes molecules, and is no
    representation of one. The coefficients are those of the configuration.

    Raises:
        ConfigError: the model has encoders of fewer than two modalities.
    """

    warmth: Tensor

    def __init__(self, config: MMSAConfig, model: ModelConfig, labels: Labels):
        super().__init__()
        self.config = config
        names = sorted(model.encoders())
        if len(names) < 2:
            raise ConfigError(
                f"objective=mmsa aligns modalities: the model has encoders of {', '.join(names) or 'none'}, expected "
                "two at least. Choose model=mmsa_small, or add one by model/encoder_2d=NAME or model/encoder_3d=NAME."
            )
        self.modalities = frozenset(names)
        self.required_fields = frozenset({"key"}).union(*(FIELDS_OF.get(name, set()) for name in names))
        self.coders = AutoEncoders({name: model.readout_width(name) for name in names}, config.features, config.code)
        self.structure = Structure(config) if config.memory else None
        self.register_buffer("warmth", torch.zeros(()))

    def split(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> Split:
        """Compute the codes of a micro-batch, and the losses that need no other molecules."""
        names, config = self.coders.modalities, self.config
        vectors = [encoders.molecules(name, batch, generator) for name in names]
        codes = self.coders(vectors, presence(batch, names))
        losses = alignment_losses(self.coders, codes)
        both = losses["reconstruction"] + losses["cross_reconstruction"]
        counted = kept(codes.present, config.keep, generator) if self.training else codes.present
        terms = {
            "homogeneity": Term(config.homogeneity_coefficient, losses["homogeneity"], losses),
            "reconstruction": Term(config.reconstruction_coefficient, both, {}),
        }
        # Molecules that belong to no dataset have no key.
        key = batch.key_hash if len(batch.key_hash) else batch.index
        return Split(terms, {"c": codes.c, "present": codes.present, "counted": counted, "key": key})

    def global_terms(self, whole: GlobalBatch, generator: torch.Generator) -> dict[str, Term]:
        """Compute contrast, memory, invariance and usage; metrics tell whether codes or anchors collapse."""
        c, present = whole.codes["c"], whole.codes["present"]
        loss, accuracy = contrast(c, present, self.config.temperature)
        metrics = {"contrastive": loss, "contrastive_accuracy": accuracy, "code_deviation": spread(c, present)}
        terms = {"contrast": Term(self.config.contrastive_coefficient, loss, metrics, compared=self._compared(whole))}
        return terms | (self._structure_terms(self.structure, whole, generator) if self.structure else {})

    def end_step(self, generator: torch.Generator) -> None:
        """Move the anchors, put the step's molecules into the queue, and keep the weight of the structure's losses."""
        if self.structure:
            last = self._last
            self.warmth.fill_(last.warmth)
            self.structure.remember(last.seen, last.u, last.key, generator, begin=last.warmth > 0.0)

    def _structure_terms(self, structure: Structure, whole: GlobalBatch, generator: torch.Generator) -> dict[str, Term]:
        config, c, present, key = self.config, *(whole.codes[name] for name in ("c", "present", "key"))
        u = unified(c, whole.codes["counted"])
        seen = structure(u, c, key, generator)
        losses = structure.losses(seen, present)
        # It never falls, also if a run is made longer.
        warmth = max(float(self.warmth), structure.warmth(whole.progress or 0.0))
        weight = warmth * structure.anchors.ready()
        self._last = _Last(Seen(*(part.detach() for part in seen)), u.detach(), key, warmth)
        activation = seen.activation.exp()
        measured = {
            "usage_entropy": entropy_of_mean(activation),
            "activation_entropy": mean_entropy(activation),
            "structure_weight": torch.full((), weight, device=c.device),
            "reseeded": structure.anchors.num_reseeded().to(c.dtype),
        }
        coefficients = {
            "memory": config.memory_coefficient,
            "invariance": config.invariance_coefficient,
            "usage": config.usage_coefficient,
        }
        return {
            name: Term(weight * coefficients[name], loss, {name: loss, **(measured if name == "usage" else {})})
            for name, loss in losses.items()
        }

    def _compared(self, whole: GlobalBatch) -> tuple[Tensor, Tensor] | None:
        """The codes of 2D and 3D, where there are both."""
        names = self.coders.modalities
        if not {"2d", "3d"} <= set(names):
            return None
        return compared(whole.codes["c"], whole.codes["present"], names.index("2d"), names.index("3d"))
