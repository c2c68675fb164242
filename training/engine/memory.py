"""Estimates the memory that the engine needs for a model, by ZeRO stage and number of processes."""

from collections.abc import Sequence
from dataclasses import dataclass

from molstream.training.engine.config import EngineConfig, largest_persistent


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
