"""Tensors cut into one share per process, as ZeRO 3 cuts parameters."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def shares(tensor: Tensor, world_size: int) -> Tensor:
    """[W, ceil(numel / W)]: the share of every process, as ZeRO 3 cuts parameters; zeros at the end."""
    size = -(-tensor.numel() // world_size)
    return F.pad(tensor.flatten(), (0, size * world_size - tensor.numel())).view(world_size, size)


def gathered(share: Tensor, shape: torch.Size) -> Tensor:
    """The tensor of a shape that all processes have shares of (collective)."""
    whole = share.new_empty(dist.get_world_size() * share.numel())
    dist.all_gather_into_tensor(whole, share)
    return whole[: shape.numel()].view(shape)
