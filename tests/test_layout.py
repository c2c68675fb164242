"""No module is imported under two names, none stands in for one of the standard library, and packages are declared."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.datasets import REPOSITORY, molecules, write_csv
from tests.support.processes import ENVIRONMENT

ROOMS = ("training", "pipeline", "preprocessing")

CHECK = f"""
import os, sys
assert not set({ROOMS!r}) & sys.modules.keys(), set({ROOMS!r}) & sys.modules.keys()
names = {{}}
for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None)
    if file and name.split(".")[0] in ("molstream", "__main__", *{ROOMS!r}):
        names.setdefault(os.path.realpath(file), set()).add(name)
twice = {{file: found for file, found in names.items() if len(found) > 1}}
assert not twice, twice
assert len(names) > 20
"""


def ran(folder: Path, words: list[str]) -> None:
    """Run a command in a process of its own, then look at its modules."""
    program = f"from molstream.cli.main import main\nassert main({words!r}) == 0\n{CHECK}"
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_no_module_has_two_names_after_preprocess_and_embed(export, tmp_path):
    write_csv(tmp_path / "molecules.csv", molecules()[:12])
    ran(tmp_path, ["preprocess", "input=molecules.csv", "output=dataset", "ray.num_cpus=1"])
    ran(tmp_path, ["embed", f"export={export}", "input=molecules.csv", "output=vectors.parquet"])


def test_no_module_has_two_names_after_pretraining_by_path(dataset, tmp_path):
    path = str(REPOSITORY / "training" / "pretrain.py")
    settings = ["model=tiny", "data.lanes=1", "data.micro_batch=4", "steps=1", "log.loggers=[]"]
    arguments = [path, f"data.path={dataset}", f"run_dir={tmp_path / 'run'}", *settings]
    program = (
        "import runpy, sys\n"
        f"sys.path[0] = {os.path.dirname(path)!r}\n"
        f"sys.argv = {arguments!r}\n"
        "try:\n"
        f"    runpy.run_path({path!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        f"    assert end.code == 0, end.code\n{CHECK}"
    )
    environment = {k: v for k, v in ENVIRONMENT.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_beside_a_program_is_called_like_a_module_of_the_standard_library(room):
    # `deepspeed training/pretrain.py` puts that folder first on the path of whatever is imported next.
    names = {path.stem if path.suffix == ".py" else path.name for path in (REPOSITORY / room).iterdir()}
    assert len(names) > 3
    assert not names & sys.stdlib_module_names


# --- packages ---------------------------------------------------------------------------------------------------------


def imports() -> Iterator[tuple[str, Path]]:
    """Names of other packages that the code of the wheel imports, anywhere in a module."""
    for folder in ("molstream/cli", "molstream/io", *ROOMS):
        for file in [*(REPOSITORY / folder).rglob("*.py"), *(REPOSITORY / "molstream").glob("*.py")]:
            for node in ast.walk(ast.parse(file.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    names = [node.module]
                for name in {name.partition(".")[0] for name in names}:
                    if name not in sys.stdlib_module_names and name != "molstream":
                        yield name, file


def distributions(requirements: list[str]) -> set[str]:
    """Names of distributions in requirements, as they are compared."""
    return {re.split(r"[\[<>=~! ]", text)[0].lower().replace("_", "-") for text in requirements}


def test_every_imported_package_is_declared_and_every_declared_one_is_imported():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = {name: texts for name, texts in project["optional-dependencies"].items() if name not in ("dev", "all")}
    base = distributions(project["dependencies"])
    optional = distributions([text for texts in extras.values() for text in texts])
    providers = importlib.metadata.packages_distributions()
    used: dict[str, set[Path]] = {}
    for name, file in imports():
        for distribution in {each.lower().replace("_", "-") for each in providers.get(name, [name])}:
            used.setdefault(distribution, set()).add(file)
    # What some of them bring and offer as their own interface.
    brought = {"markupsafe": "jinja2", "requests": "mlflow-skinny", "httpx2": "huggingface-hub"}
    assert {brought.get(name, name) for name in used} - base - optional == set()
    assert base - used.keys() == set()
    # fsspec imports s3fs by the protocol of a URL, torch.utils.tensorboard imports tensorboard, torch.onnx imports onnx
    # and onnxscript; users run exports by onnxruntime.
    assert optional - used.keys() - {"s3fs", "tensorboard", "onnx", "onnxscript", "onnxruntime"} == set()
