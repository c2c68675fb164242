"""The package as users install it."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.datasets import REPOSITORY


def unpacked_wheel(folder: Path) -> Path:
    """Build the wheel of this clone, and unpack it: a folder for PYTHONPATH that holds what an installation would."""
    clone, wheels, installed = folder / "clone", folder / "wheels", folder / "installed"
    # In a copy, since building leaves files behind. The package has links to its rooms, which stay links.
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "runs")
    shutil.copytree(REPOSITORY, clone, symlinks=True, ignore=ignored)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    wheels.mkdir()
    result = subprocess.run([sys.executable, "-c", build, wheels], cwd=clone, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    [wheel] = wheels.glob("molstream-*.whl")
    shutil.unpack_archive(wheel, installed, "zip")
    return installed
