"""Where tensors live."""

import torch

from molstream.errors import ConfigError


def device_named(name: str) -> torch.device:
    """The device of a configuration: ``auto`` is a GPU where there is one, else the CPU.

    Raises:
        ConfigError: torch knows no such device, or this machine has none.
    """
    try:
        device = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device={name}: expected auto, cpu, cuda or cuda:N ({str(error).splitlines()[0]})."
        ) from error
    return device
