"""Estimates the cost of a model: parameters by part, and FLOPs per molecule."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from molstream.pipeline.order.mixture import Mixture
from molstream.pipeline.shards.reader import ShardDataset
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.collate import OPTIONAL_FIELDS, collate, collate_samples, collated_fields
from molstream.training.data.labels import Labels
from molstream.training.data.largest_batch import black_images
from molstream.training.memory import on_meta
from molstream.training.models.config import ModelConfig
from molstream.training.module import PretrainingModule, build_module, num_parameters
from molstream.training.objectives.config import ObjectiveConfig

LAYOUTS = ((0, "none"), (1, "none"), (2, "none"), (3, "none"), (3, "all"))
"""ZeRO stages with their offload setting: the presets of configs/deepspeed."""
TYPICAL_SMILES = (
    "Cc1ccc(cc1)-c1cc(nn1-c1ccc(cc1)S(N)(=O)=O)C(F)(F)F",
    "CCOC(=O)N1CCC(=C2c3ccc(Cl)cc3CCc3cccnc23)CC1",
    "COc1ccc2[nH]c(nc2c1)S(=O)Cc1ncc(C)c(OC)c1C",
    "CN(C)CCCC1(OCc2cc(ccc12)C#N)c1ccc(F)cc1",
    "CC(=O)CC(c1ccccc1)c1c(O)c2ccccc2oc1=O",
    "OC1(CCN(CCCC(=O)c2ccc(F)cc2)CC1)c1ccc(Cl)cc1",
    "CCCCc1nc(Cl)c(CO)n1Cc1ccc(cc1)-c1ccccc1-c1nnn[nH]1",
    "OC(Cn1cncn1)(Cn1cncn1)c1ccc(F)cc1F",
)
"""Drugs of 22 to 30 heavy atoms, 25 on average, for which FLOPs are counted."""
TRUNKS = (
    "graph_transformer",
    "geometry_transformer",
    "blend_transformer",
    "position_transformer.trunk",
    "bond_transformer.trunk",
)
"""Dotted paths of the stacks of equal blocks in :class:`molstream.training.models.config.ModelConfig`."""


def parameters_by_part(module: PretrainingModule) -> dict[str, int]:
    """Count the parameters of each encoder and of each head of the objective, by name."""
    parts = dict(module.encoders.named_children())
    for objective in module.objective.parts.values():
        parts |= dict(objective.named_children())
    return {name: num_parameters(part) for name, part in parts.items()}


@dataclass(frozen=True)
class Flops:
    """Floating-point operations per molecule in matrix products: two per multiply-add.

    Padded entries of attention are counted; elementwise operations, norms, gathers, searches and the recomputation of
    gradient checkpointing are not.
    """

    forward: float
    """FLOPs of the forward pass."""
    backward: float
    """FLOPs of the backward pass."""


def count_flops(
    model: ModelConfig, objective: ObjectiveConfig, batch: MoleculeBatch, labels: Labels | None = None
) -> Flops:
    """Count the FLOPs per molecule of a training step on ``batch``, which must be on the CPU.

    ``labels`` are what its dataset offers to predict, as :func:`build_module` takes them.

    Forward and backward are executed, because the numbers of atoms and pairs depend on the data, which the meta device
    does not have. All blocks of a stack cost the same, so each stack is run with one and with two blocks, and the
    result is extrapolated. Images, whose content does not matter, are black.
    """
    batch = replace(batch, **black_images(batch.num_graphs, model.image_size))
    shallow = model
    trunks = [trunk for trunk in TRUNKS if getattr(model, trunk.partition(".")[0]) is not None]
    for trunk in trunks:
        shallow = _replaced(shallow, trunk, num_layers=1, checkpointing=False)
    total = first = _run(shallow, objective, batch, labels)
    for trunk in trunks:
        deeper = _replaced(shallow, trunk, num_layers=2)
        if _num_parameters(deeper, objective, labels) == _num_parameters(shallow, objective, labels):
            continue  # the objective does not use it
        more = attrgetter(trunk)(model).num_layers - 1
        total = total + more * (_run(deeper, objective, batch, labels) - first)
    return Flops(*(float(count) / batch.num_graphs for count in total))


def flops_of(forward: Callable[[], Tensor]) -> np.ndarray:
    """Count the FLOPs of a function that returns a scalar, and of its backward pass, int64 [2]."""
    # The counter does not know the CPU kernels of attention, but the products of the plain implementation.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = forward()
        ahead = counter.get_total_flops()
        loss.backward()
    return np.array([ahead, counter.get_total_flops() - ahead])


def typical_batch() -> MoleculeBatch:
    """Build a batch of :data:`TYPICAL_SMILES`, heavy atoms only, with one conformer each."""
    raws = [RawMolecule(text, "smiles", "", row) for row, text in enumerate(TYPICAL_SMILES)]
    found = [featurize(raw, FeaturizeConfig()) for raw in raws]
    samples = [sample for sample in found if isinstance(sample, MoleculeSample)]
    return collate_samples(samples, np.zeros(len(samples), np.uint64))


def dataset_labels(path: str) -> Labels:
    """What a dataset offers to predict.

    Raises:
        DataError: ``path`` is not a dataset.
    """
    return Labels.of(Mixture([ShardDataset(path)]).record())


def dataset_batch(path: str) -> MoleculeBatch:
    """Build a batch of the first molecules of a dataset, as many as :data:`TYPICAL_SMILES` has.

    Raises:
        DataError: ``path`` is not a dataset.
    """
    dataset = ShardDataset(path)
    index = np.arange(min(len(TYPICAL_SMILES), dataset.num_rows))
    return collate(dataset.read_rows(index, collated_fields(OPTIONAL_FIELDS)), index, np.zeros(len(index), np.uint64))


def _run(model: ModelConfig, objective: ObjectiveConfig, batch: MoleculeBatch, labels: Labels | None) -> np.ndarray:
    module = build_module(model, objective, 0, labels)
    return flops_of(lambda: module(batch, torch.Generator().manual_seed(0)).loss)


def _num_parameters(model: ModelConfig, objective: ObjectiveConfig, labels: Labels | None) -> int:
    return num_parameters(on_meta(lambda: build_module(model, objective, 0, labels)))


def _replaced(config: Any, path: str, **values: Any) -> Any:
    """Copy a configuration with other values at a dotted path."""
    if not path:
        return replace(config, **values)
    name, _, rest = path.partition(".")
    return replace(config, **{name: _replaced(getattr(config, name), rest, **values)})
