"""Estimates the cost of a model: parameters, GPU memory by ZeRO stage, and FLOPs per molecule."""

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
TRUNKS = ("graph_transformer", "geometry_transformer", "position_transformer.trunk", "bond_transformer.trunk")
"""Dotted paths of the stacks of equal blocks in :class:`molstream.training.models.config.ModelConfig`."""


@dataclass(frozen=True)
class GpuMemory:
    """Bytes that ``Engine`` needs on one GPU, without activations, and in CPU memory."""

    weights: int
    """fp32 parameters: all on each GPU at the stages 0 to 2; a shard, and all small ones, at stage 3."""
    sums: int
    """fp64 sums of the lanes' gradients: all on each GPU at the stages 0 to 2, a shard at stage 3."""
    optimizer: int
    """Moments of AdamW, and from stage 1 on DeepSpeed's fp32 copy of the weights that it updates."""
    lane: int
    """Maximum during forward and backward, besides activations: half-precision copies of the weights, and at stage 3
    the gathered weights and the gradients that are reduced."""
    step: int
    """fp32 gradients and buffers of DeepSpeed during the optimizer step, after activations are freed."""
    cpu: int = 0
    """Bytes in CPU memory per GPU, with offload."""

    @property
    def kept(self) -> int:
        """Bytes that are allocated permanently."""
        return self.weights + self.sums + self.optimizer

    @property
    def peak(self) -> int:
        """Maximum number of bytes, if activations need less than ``step``."""
        return self.kept + max(self.lane, self.step)


def gpu_memory(
    sizes: Sequence[int],
    stage: int,
    gpus: int,
    precision: str,
    bucket: int = EngineConfig.bucket_size,
    offload: str = "none",
) -> GpuMemory:
    """Estimate the memory of one GPU for a model with P parameters in total.

    N is the number of GPUs, B the elements of a bucket, and S the parameters that a GPU's optimizer updates: P at stage
    0, P / N from stage 1 on. Permanent are 4 P bytes of weights, 8 P of sums, 8 S of moments and, from stage 1 on, 4 S
    for another copy of the weights; half precision needs at most 2 P for copies. A step converts the sums to fp32, 4 P,
    and needs

    * at stage 0: 4 P for the parameters' gradients and 4 P for a flat copy to reduce, later for AdamW's square root;
    * at stage 1: 4 P for gradients, with the bucket, then with the optimizer's 4 S while the gradients are freed;
    * at stage 2: the bucket, a copy of it that is reduced, and the optimizer's 4 S; other gradients are freed before;
    * then the optimizer's gradients, a flat copy of them and AdamW's square root: at most 12 S, all in one group.

    Stage 3 needs 4 S for weights, 4 Q for the Q small parameters that stay gathered, and 8 S for sums. At most B
    elements and the largest parameter are gathered, with 4 bytes each, and as many gradients are reduced, with 4 bytes
    in fp32 and 8 in fp64. A step needs 4 S for gradients and 4 S for a flat copy, later for AdamW's square root, and
    finally gathers the 4 Q again. ``offload="all"`` moves 4 S of weights, 12 S of the optimizer and 8 S of gradients to
    CPU memory.

    An EMA of the weights (``optim.ema_decay``) needs another 4 P / N, where the weights are. Muon has one moment per
    matrix, 4 P / N at every stage. Not included: module buffers, and the memory of NCCL and CUDA themselves.

    Args:
        sizes: number of elements of each parameter.
        stage: ZeRO stage, 0 to 3.
        gpus: number of GPUs N.
        precision: fp32, fp16 or bf16.
        bucket: elements of a bucket B.
        offload: none, or at stage 3 also all.
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
    """Build the module on the meta device, without memory for its weights.

    Raises:
        ConfigError: an encoder or objective is unknown, or sizes contradict each other.
    """
    with torch.device("meta"):
        return build_module(model, objective, seed=0)


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


def count_flops(model: ModelConfig, objective: ObjectiveConfig, batch: MoleculeBatch) -> Flops:
    """Count the FLOPs per molecule of a training step on ``batch``, which must be on the CPU.

    Forward and backward are executed, because the numbers of atoms and pairs depend on the data, which the meta device
    does not have. All blocks of a stack cost the same, so each stack is run with one and with two blocks, and the
    result is extrapolated.
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


def dataset_batch(path: str) -> MoleculeBatch:
    """Build a batch of the first molecules of a dataset, as many as :data:`TYPICAL_SMILES` has.

    Raises:
        DataError: ``path`` is not a dataset.
    """
    dataset = ShardDataset(path)
    index = np.arange(min(len(TYPICAL_SMILES), dataset.num_rows))
    return collate(dataset.read_rows(index, COLLATED_FIELDS), index, np.zeros(len(index), np.uint64))


def _run(model: ModelConfig, objective: ObjectiveConfig, batch: MoleculeBatch) -> np.ndarray:
    module = build_module(model, objective, seed=0)
    return flops_of(lambda: module(batch, torch.Generator().manual_seed(0)).loss)


def _replaced(config: Any, path: str, **values: Any) -> Any:
    """Copy a configuration with other values at a dotted path."""
    if not path:
        return replace(config, **values)
    name, _, rest = path.partition(".")
    return replace(config, **{name: _replaced(getattr(config, name), rest, **values)})
