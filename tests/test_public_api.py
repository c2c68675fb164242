"""What ``import molstream`` offers: quick, without heavy packages, every name there, documented and typed."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import molstream
from tests.support.datasets import REPOSITORY

NAMES = [name for name in molstream.__all__ if name != "__version__"]

HEAVY = ("torch", "torch_geometric", "rdkit", "ray", "hydra", "omegaconf", "numpy", "pyarrow", "sklearn", "deepspeed")


def python(code: str, folder: Path, *arguments: str) -> str:
    """What a program prints, run in a folder of its own."""
    result = subprocess.run(
        [sys.executable, *arguments, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_import_is_quick_and_needs_no_package(tmp_path):
    code = f"""
import sys, time
start = time.perf_counter()
import molstream
seconds = time.perf_counter() - start
names = dir(molstream)
print(seconds, [name for name in {HEAVY} if name in sys.modules])
"""
    # The best of three, as other programs may keep the machine busy.
    found = [python(code, tmp_path).split(maxsplit=1) for _ in range(3)]
    assert {heavy.strip() for _, heavy in found} == {"[]"}
    assert min(float(seconds) for seconds, _ in found) < 0.2


def test_the_chemistry_alone_needs_no_torch(tmp_path):
    code = "import sys, molstream; print(molstream.featurize('CCO').key, 'torch' in sys.modules, 'ray' in sys.modules)"
    assert python(code, tmp_path).split() == ["LFQSCWFLJHTTHZ-UHFFFAOYSA-N", "False", "False"]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_documented(name):
    found = getattr(molstream, name)
    assert found.__name__ == name
    assert getattr(molstream, name) is found
    assert len(inspect.getdoc(found).split()) > 5
    # A dataclass without a docstring gets its signature as one.
    assert not inspect.getdoc(found).startswith(f"{name}(")
    for method, value in vars(found).items() if inspect.isclass(found) else ():
        if inspect.isfunction(value) and not method.startswith("_") and value.__module__.startswith("molstream"):
            assert value.__doc__, f"{name}.{method}"


def test_dir_and_the_version(tmp_path):
    assert dir(molstream) == molstream.__all__ == sorted(set(molstream.__all__))
    assert molstream.__version__[0].isdigit()
    # A clone that nobody has installed.
    code = """
import importlib.metadata
def version(name):
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = version
import molstream
print(molstream.__version__)
"""
    assert python(code, tmp_path).strip() == "unknown"


def test_names_that_are_not_there_are_an_attribute_error_and_rooms_can_be_imported(tmp_path):
    with pytest.raises(AttributeError, match="module 'molstream' has no attribute 'Embedder'"):
        molstream.Embedder  # noqa: B018
    assert python("from molstream import errors, training; print(errors.DataError.__name__)", tmp_path) == "DataError\n"
    code = "from molstream import *; print(MoleculeDataset.__name__, load_pretrained.__name__)"
    assert python(code, tmp_path) == "MoleculeDataset load_pretrained\n"


def test_type_checkers_see_the_same_names_from_the_same_modules():
    tree = ast.parse((REPOSITORY / "molstream" / "__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == molstream._MODULES
    assert sorted(seen) == sorted(NAMES)
