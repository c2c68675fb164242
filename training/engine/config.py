"""Configuration of the engine, and its translation into DeepSpeed's configuration."""

from typing import Annotated, Any, Literal

from pydantic import Field

from molstream.config import PositiveInt, configuration, free
from molstream.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]


@configuration
class EngineConfig:
    """How DeepSpeed spreads and computes a step; none of it changes what is learned beyond rounding."""

    zero_stage: Annotated[int, Field(ge=0, le=3)] = free(default=1)
    """ZeRO stage: 0 replicates, 1 shards the optimizer's state, 2 DeepSpeed's gradients too, 3 everything."""
    precision: Precision = "fp32"
    """What networks compute in, by autocast over fp32 weights; geometry and losses stay in fp32."""
    offload: Literal["none", "optimizer", "all"] = free(default="none")
    """What waits in the CPU's memory while a GPU computes; all: weights as well, in stage 3."""
    bucket_size: PositiveInt = free(default=50_000_000)
    """Elements that are reduced at a time, and in stage 3 gathered ahead of their use, or kept for the next one."""
    timeout_s: PositiveInt = free(default=600)
    """Seconds after which a collective fails whose peer is silent, and a process ends itself whose step is not done."""

    def __post_init__(self) -> None:
        least = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < least:
            raise ConfigError(f"deepspeed.offload={self.offload} needs deepspeed.zero_stage={least} or more.")


def largest_persistent(bucket_size: int) -> int:
    """Largest number of elements of a parameter that ZeRO 3 keeps gathered: to free it would save almost no memory."""
    return bucket_size // 500


def deepspeed_settings(config: EngineConfig, global_batch: int, per_process: int) -> dict[str, Any]:
    """DeepSpeed's configuration for an engine.

    Args:
        config: stage, offload and bucket size.
        global_batch: samples per step over all processes.
        per_process: samples per step on one process.
    """
    # Where it is used, since it needs torch, and the help of pretrain and a mistyped key should not wait for that.
    import torch

    from molstream.training.distributed.deepspeed_compat import corrected_defaults, corrected_zero3_defaults

    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        "reduce_bucket_size": config.bucket_size,
        "allgather_bucket_size": config.bucket_size,
    }
    if config.zero_stage == 3:
        zero |= {
            **corrected_zero3_defaults(config.bucket_size),
            "stage3_prefetch_bucket_size": config.bucket_size,
            "stage3_param_persistence_threshold": largest_persistent(config.bucket_size),
        }
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_batch_size": global_batch,
        "train_micro_batch_size_per_gpu": per_process,
        "gradient_accumulation_steps": 1,
        **corrected_defaults(),
        "zero_optimization": zero,
    }
