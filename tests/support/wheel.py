"""The package as users install it: a wheel built from a clone, alone or in an environment of its own."""

import importlib.metadata
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.datasets import REPOSITORY

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def built_wheel(folder: Path) -> Path:
    """Build the wheel of what git knows or would add, as a clone has it; returns the file."""
    clone, wheels = folder / "clone", folder / "wheels"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        source, target = REPOSITORY / name, clone / name
        # The package has links to its rooms, which stay links.
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(wheels))
    run(*PIP, "wheel", *options, str(clone))
    [wheel] = wheels.glob("*.whl")
    return wheel


def unpacked_wheel(folder: Path) -> Path:
    """Build the wheel and unpack it: a folder for PYTHONPATH that holds what an installation would."""
    installed = folder / "installed"
    shutil.unpack_archive(built_wheel(folder), installed, "zip")
    return installed


def environment_with(wheel: Path, folder: Path, extra: str = "") -> Path:
    """A virtual environment with the wheel and what it requires, and nothing else; returns its folder of programs.

    Nothing is fetched: the required packages are links to those of the environment that runs the tests.

    Args:
        extra: of molstream, whose packages are there too.
    """
    run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    python = folder / "bin" / "python"
    run(*PIP, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    for name in required(wheel, extra):
        for source in top_level(name):
            target = packages / source.name
            if not target.exists():
                target.symlink_to(source)
    return python.parent


def required(wheel: Path, extra: str) -> set[str]:
    """Names of the installed distributions that a wheel requires, directly or not."""
    [metadata] = [path for path in zipfile.Path(wheel).iterdir() if path.name.endswith(".dist-info")]
    own = importlib.metadata.PathDistribution(metadata).requires  # pyright: ignore[reportArgumentType]
    found: set[tuple[str, str]] = set()
    todo = [each for chosen in {"", extra} for each in _direct(own, chosen)]
    while todo:
        name, chosen = each = todo.pop()
        if each not in found and (requires := _requirements(name)) is not None:
            found.add(each)
            todo += _direct(requires, chosen)
    return {name for name, _ in found}


def _direct(requires: list[str] | None, extra: str) -> Iterator[tuple[str, str]]:
    """Names of distributions, each with '' and with the extras of it that are required."""
    for requirement in map(Requirement, requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield from ((requirement.name, chosen) for chosen in ("", *requirement.extras))


def _requirements(name: str) -> list[str] | None:
    """What a distribution requires; None if it is not installed."""
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return None


def top_level(name: str) -> Iterator[Path]:
    """What a distribution has put into the folder of packages."""
    distribution = importlib.metadata.distribution(name)
    for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        yield Path(str(distribution.locate_file(top)))


def run(*command: str) -> None:
    """Run a program that must succeed."""
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
