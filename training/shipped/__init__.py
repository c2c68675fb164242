"""Encoders that travel in the package, each an export in a folder of its name."""

from pathlib import Path

from molstream.errors import ConfigError

MINI = "molstream-mini"
"""The encoder where none is named: 2D, 1.5 M parameters; `experiment=mini` trains it."""
SHIPPED = (MINI,)


def located(source: str | Path, key: str) -> Path:
    """The folder that ``source`` names; a text that is the name of a shipped encoder names that.

    Args:
        source: a folder, or the name of a shipped encoder.
        key: names ``source`` in messages.

    Raises:
        ConfigError: a folder has the name of a shipped encoder, so that it is not clear which is meant.
    """
    if source not in SHIPPED:
        return Path(source)
    if Path(source).exists():
        raise ConfigError(
            f"{key}={source}: this is the encoder that travels in molstream, and a folder here. Give ./{source} for "
            "the folder, or work elsewhere."
        )
    return Path(__file__).parent / source
