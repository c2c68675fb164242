"""Splits tensors into one part per process, as ZeRO 3 partitions parameters, and gathers them."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def shares(tensor: Tensor, world_size: int) -> Tensor:
    """Split a tensor as ZeRO 3 does: [W, ceil(numel / W)], one row per process, padded with zeros at the end."""
    size = -(-tensor.numel() // world_size)
    return F.pad(tensor.flatten(), (0, size * world_size - tensor.numel())).view(world_size, size)


def gathered(share: Tensor, shape: torch.Size) -> Tensor:
    """Gather the tensor that all processes have parts of (collective).

    Args:
        share: this process's row of :func:`shares`.
        shape: shape of the whole tensor.
    """
    whole = share.new_empty(dist.get_world_size() * share.numel())
    dist.all_gather_into_tensor(whole, share)
    return whole[: shape.numel()].view(shape)
