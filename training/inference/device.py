"""Selects the torch device that a configuration names."""

import torch

from molstream.errors import ConfigError


def device_named(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is a GPU if there is one, otherwise the CPU.

    Raises:
        ConfigError: torch does not know this device, or the machine does not have it.
    """
    try:
        device = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device={name}: expected auto, cpu, cuda or cuda:N ({str(error).splitlines()[0]})."
        ) from error
    return device
