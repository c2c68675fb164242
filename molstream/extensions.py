"""What other packages add to molstream by entry points: commands, encoders, objectives and input formats.

A package that declares ``[project.entry-points."molstream.objectives"]`` with ``name = "package.module:Class"`` adds an
objective without a fork. Groups and the objects that they hold:

- ``molstream.commands``: a :class:`molstream.cli.main.Command`;
- ``molstream.encoders``: an ``nn.Module`` class as in ``training/models/encoders.py``, with the class attributes
  ``Config``, its configuration with the fields ``hidden`` and ``readout`` (``image_size`` instead of it for images),
  and ``modality``, "2d", "3d" or "image";
- ``molstream.objectives``: a :class:`molstream.training.objectives.base.Objective` class, built from its configuration
  and the model's, with the class attribute ``Config``, which has a field ``weight``;
- ``molstream.formats``: a :class:`molstream.pipeline.readers.base.Format`.
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from molstream.errors import ConfigError

T = TypeVar("T")


@cache
def extensions(kind: str) -> dict[str, Any]:
    """The objects that other packages add, by name.

    Args:
        kind: ``commands``, ``encoders``, ``objectives`` or ``formats``: the group ``molstream.<kind>``.

    Raises:
        ConfigError: two packages add the same name, or an object cannot be imported.
    """
    found: dict[str, Any] = {}
    for point in entry_points(group=f"molstream.{kind}"):
        if point.name in found:
            raise ConfigError(f"two packages add '{point.name}' to molstream.{kind}: uninstall one of them.")
        try:
            found[point.name] = point.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"the entry point {point.value} of molstream.{kind} cannot be loaded: {error}. Update or uninstall "
                "the package that declares it."
            ) from error
    return found


def extended(table: Mapping[str, T], kind: str) -> dict[str, T]:
    """A table of molstream together with what other packages add to it.

    Raises:
        ConfigError: as :func:`extensions`, or a package adds a name that molstream has itself.
    """
    added = extensions(kind)
    if taken := sorted(table.keys() & added.keys()):
        raise ConfigError(f"a package adds '{taken[0]}' to molstream.{kind}, which molstream has itself: uninstall it.")
    return {**table, **added}
