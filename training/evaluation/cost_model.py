"""What a model costs before it is trained: its parameters, the memory of a GPU by ZeRO stage, FLOPs per molecule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from molstream.pipeline.shards.reader import ShardDataset
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.collate import COLLATED_FIELDS, collate, collate_samples
from molstream.training.engine.config import EngineConfig, largest_persistent
from molstream.training.models.config import ModelConfig
from molstream.training.module import PretrainingModule, build_module, num_parameters
from molstream.training.objectives.config import ObjectiveConfig

LAYOUTS = ((0, "none"), (1, "none"), (2, "none"), (3, "none"), (3, "all"))
"""ZeRO stages, and what is offloaded: the presets of configs/deepspeed."""
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
"""Drugs of 22 to 30 heavy atoms, 25 on average: what FLOPs are counted on."""
TRUNKS = ("graph_transformer", "geometry_transformer", "position_transformer.trunk", "bond_transformer.trunk")
"""Where :class:`molstream.training.models.encoders.ModelConfig` has stacks of equal blocks."""


@dataclass(frozen=True)
class GpuMemory:
    """Bytes that ``Engine`` needs on one GPU besides activations, and those it keeps elsewhere."""

    weights: int
    """fp32 parameters: whole on every GPU at the stages 0 to 2, a share of them and the small ones at stage 3."""
    sums: int
    """fp64 sums of the lanes' gradients: whole on every GPU at the stages 0 to 2, a share at stage 3."""
    optimizer: int
    """AdamW's two moments, and from stage 1 on DeepSpeed's own fp32 copy of the weights that it updates."""
    lane: int
    """At most, from the forward pass to the end of the backward pass, with activations: copies of the weights in half
    precision, and at stage 3 the weights that are gathered and the gradients that are reduced."""
    step: int
    """Gradients in fp32 and DeepSpeed's buffers, while the optimizer steps; activations are gone then."""
    cpu: int = 0
    """In the CPU's memory, for this GPU."""

    @property
    def kept(self) -> int:
        """What is there at all times."""
        return self.weights + self.sums + self.optimizer

    @property
    def peak(self) -> int:
        """The most, if activations need less than ``step``."""
        return self.kept + max(self.lane, self.step)


def gpu_memory(
    sizes: Sequence[int],
    stage: int,
    gpus: int,
    precision: str,
    bucket: int = EngineConfig.bucket_size,
    offload: str = "none",
) -> GpuMemory:
    """Memory of one GPU for a model whose parameters have so many elements each, P together.

    With N GPUs, a bucket of B elements and the part S of the parameters that a GPU's optimizer updates, P at stage 0
    and P / N from stage 1 on, there are 4 P bytes of weights, 8 P of sums, 8 S of moments and from stage 1 on 4 S of
    weights once more; in half precision at most 2 P of copies. A step makes 4 P of the sums in fp32, and of these

    * at stage 0 4 P gradients of the parameters, and 4 P flattened to reduce them, later AdamW's root;
    * at stage 1 4 P gradients, beside the bucket, then, as they leave, beside the 4 S that are the optimizer's;
    * at stage 2 the bucket, a copy of it that is reduced, and the optimizer's 4 S; other gradients are gone by then;
    * then the optimizer's, the same flattened, and AdamW's root: at most 12 S, all in one group.

    At stage 3 there are 4 S of weights, and 4 Q of those that stay gathered, and 8 S of sums. At most B elements and
    the largest parameter are gathered, 4 bytes each, and as many gradients reduced: 4 bytes each in fp32 and 8 in fp64.
    A step makes 4 S of gradients and 4 S flattened, later AdamW's root, and in the end gathers 4 Q anew.
    ``offload="all"`` keeps 4 S of weights, 12 S of the optimizer's and 8 S of gradients in the CPU's memory.

    A moving average of the weights (``optim.ema_decay``) takes 4 P / N more, where the weights are. Muon's matrices
    have one moment, of 4 P / N at any stage. Buffers are not counted, nor what NCCL and CUDA take for themselves.

    Args:
        offload: none; or all, at stage 3.
    """
    parameters = sum(sizes)
    copies = 0 if precision == "fp32" else 2 * parameters
    if stage == 3:
        shard = sum(-(-size // gpus) for size in sizes)
        persistent = sum(size for size in sizes if size <= largest_persistent(bucket))
        live = min(parameters, bucket + max(sizes))
        offloaded = offload == "all"
        return GpuMemory(
            weights=4 * persistent + (0 if offloaded else 4 * shard),
            sums=8 * shard,
            optimizer=0 if offloaded else 12 * shard,
            lane=copies + 16 * live,
            step=max(8 * shard, 4 * persistent),
            cpu=24 * shard if offloaded else 0,
        )
    shard = parameters if stage == 0 else -(-parameters // gpus)
    buffers = {
        0: 8 * parameters,
        1: max(4 * parameters + 4 * max(bucket, shard), 12 * shard),
        2: max(4 * bucket + 4 * min(bucket, parameters) + 4 * shard, 12 * shard),
    }[stage]
    return GpuMemory(
        weights=4 * parameters,
        sums=8 * parameters,
        optimizer=8 * shard if stage == 0 else 12 * shard,
        lane=copies,
        step=4 * parameters + buffers,
    )


def on_meta(model: ModelConfig, objective: ObjectiveConfig) -> PretrainingModule:
    """The module without memory for its weights.

    Raises:
        ConfigError: no such encoder or objective, or sizes that contradict each other.
    """
    with torch.device("meta"):
        return build_module(model, objective, seed=0)


def parameters_by_part(module: PretrainingModule) -> dict[str, int]:
    """Parameters of both encoders and of every head of the objective, by name."""
    parts = dict(module.encoders.named_children())
    for objective in module.objective.parts.values():
        parts |= dict(objective.named_children())
    return {name: num_parameters(part) for name, part in parts.items()}


@dataclass(frozen=True)
class Flops:
    """Floating-point operations per molecule: two per multiplication and addition in products of matrices.

    Entries of attention that are padding are counted; element-wise work, norms, gathers and searches are not, nor is
    what gradient checkpointing computes a second time.
    """

    forward: float
    backward: float


def count_flops(model: ModelConfig, objective: ObjectiveConfig, batch: MoleculeBatch) -> Flops:
    """FLOPs per molecule of a training step on ``batch``, which must be on the CPU.

    Forward and backward run in earnest, since which atoms and pairs there are depends on the data: the meta device
    cannot. All blocks of a stack cost the same, so that every stack is run with one block and with two, and the rest
    follows.
    """
    shallow = model
    trunks = [trunk for trunk in TRUNKS if getattr(model, trunk.partition(".")[0]) is not None]
    for trunk in trunks:
        shallow = _replaced(shallow, trunk, num_layers=1, checkpointing=False)
    total = first = _run(shallow, objective, batch)
    for trunk in trunks:
        deeper = _replaced(shallow, trunk, num_layers=2)
        if num_parameters(on_meta(deeper, objective)) == num_parameters(on_meta(shallow, objective)):
            continue  # the objective does not use it
        more = attrgetter(trunk)(model).num_layers - 1
        total = total + more * (_run(deeper, objective, batch) - first)
    return Flops(*(float(count) / batch.num_graphs for count in total))


def flops_of(forward: Callable[[], Tensor]) -> np.ndarray:
    """int64 [2]: FLOPs of a function that returns a scalar, and of the scalar's backward pass."""
    # Of attention's kernels the counter does not know those for CPUs; the plain one is made of products it knows.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = forward()
        ahead = counter.get_total_flops()
        loss.backward()
    return np.array([ahead, counter.get_total_flops() - ahead])


def typical_batch() -> MoleculeBatch:
    """:data:`TYPICAL_SMILES`, heavy atoms with one conformer each."""
    raws = [RawMolecule(text, "smiles", "", row) for row, text in enumerate(TYPICAL_SMILES)]
    found = [featurize(raw, FeaturizeConfig()) for raw in raws]
    samples = [sample for sample in found if isinstance(sample, MoleculeSample)]
    return collate_samples(samples, np.zeros(len(samples), np.uint64))


def dataset_batch(path: str) -> MoleculeBatch:
    """The first molecules of a dataset, as many as there are :data:`TYPICAL_SMILES`.

    Raises:
        DataError: ``path`` is no dataset.
    """
    dataset = ShardDataset(path)
    index = np.arange(min(len(TYPICAL_SMILES), dataset.num_rows))
    return collate(dataset.read_rows(index, COLLATED_FIELDS), index, np.zeros(len(index), np.uint64))


def _run(model: ModelConfig, objective: ObjectiveConfig, batch: MoleculeBatch) -> np.ndarray:
    module = build_module(model, objective, seed=0)
    return flops_of(lambda: module(batch, torch.Generator().manual_seed(0)).loss)


def _replaced(config: Any, path: str, **values: Any) -> Any:
    """A copy of a configuration with other values at a dotted path."""
    if not path:
        return replace(config, **values)
    name, _, rest = path.partition(".")
    return replace(config, **{name: _replaced(getattr(config, name), rest, **values)})
