"""What other packages add to molstream, by entry points: commands, encoders, objectives and input formats.

A package that declares ``[project.entry-points."molstream.objectives"]`` with ``name = "package.module:Class"`` adds an
objective without a fork; CONTRIBUTING.md says what each kind of object must offer.
"""

from functools import cache
from importlib.metadata import entry_points
from typing import Any

from molstream.errors import ConfigError


@cache
def extensions(kind: str) -> dict[str, Any]:
    """The objects that other packages add to a table, by name.

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
                f"the package that declares it."
            ) from error
    return found
