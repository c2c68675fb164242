"""The wheel of a clone, in an environment with what it requires alone, used beside modules named as its rooms are.

`make test` runs this, and so does `.ci/run`. `infra/try_wheel.sh` does the same with an installation by pip.
"""

import os
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from molstream.cli.main import COMMANDS
from tests.support.datasets import REPOSITORY, molecules, write_csv
from tests.support.hub_server import hub_serving
from tests.support.wheel import built_wheel, environment_with

OWN = ("training", "pipeline", "preprocessing")
"""Names of modules of the user's own, and of the rooms in a clone."""
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}

CHECK = f"""
import sys
names = {OWN!r}
assert not set(names) & sys.modules.keys(), set(names) & sys.modules.keys()
import training, pipeline, preprocessing
assert [module.MINE for module in (training, pipeline, preprocessing)] == list(names)
import molstream
assert molstream.__file__.startswith(sys.prefix), molstream.__file__
"""
"""Behind a program: the rooms were imported as parts of the package alone, and the user's own modules still can be."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment without extras."""
    return environment_with(wheel, tmp_path_factory.mktemp("environment") / "base")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with modules of the user's own, and a file of molecules."""
    for name in ("training", "preprocessing"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"MINE = '{name}'\n")
    (tmp_path / "pipeline.py").write_text("MINE = 'pipeline'\n")
    write_csv(tmp_path / "molecules.csv", molecules()[:20])
    return tmp_path


def ran(
    folder: Path, *command: str | Path, code: int = 0, environment: Mapping[str, str] = ENVIRONMENT
) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, without what the tests add to the module path."""
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == code, f"{result.stdout}\n{result.stderr}"
    return result


def test_the_wheel_holds_the_package_and_its_files_under_one_name(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    [own, metadata] = sorted({name.partition("/")[0] for name in names})
    assert own == "molstream"
    assert metadata.endswith(".dist-info")
    for room, endings in {
        "preprocessing": [".py"],
        "pipeline": [".py", ".jinja"],
        "training": [".py", ".jinja"],
        "configs": [".yaml"],
    }.items():
        files = [path for path in (REPOSITORY / room).rglob("*") if path.suffix in endings]
        assert files
        assert not {f"molstream/{path.relative_to(REPOSITORY)}" for path in files} - set(names)
    assert "molstream/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "test" in Path(name).parts or "tests" in Path(name).parts]


def test_a_base_installation_imports_and_embeds_beside_modules_of_the_same_names(base, folder, export):
    program = f"""
import molstream
embedder = molstream.MoleculeEmbedder.from_pretrained({str(export)!r})
vectors = embedder.transform(["CCO", "not a molecule", "c1ccccc1"])
assert vectors.shape[0] == 3 and list(embedder.failures_) == [1], embedder.failures_
assert molstream.load_pretrained({str(export)!r}).width == vectors.shape[1]
assert molstream.featurize("CCO").num_atoms == 3
{CHECK}
"""
    (folder / "program.py").write_text(program)
    ran(folder, base / "python", "program.py")
    ran(folder, base / "python", "-c", program)


@pytest.mark.slow
def test_a_base_installation_pulls_an_encoder_by_name_and_embeds(base, folder, export):
    words = ["embed", "export=org/encoder", "revision=v1", "input=molecules.csv", "output=vectors.npy"]
    with hub_serving(folder / "hf") as hub:
        commit = hub.add("org/encoder", export)
        hub.repositories["org/encoder"].tags["v1"] = commit
        environment = ENVIRONMENT | {name: value for name, value in os.environ.items() if name.startswith("HF_")}
        done = ran(folder, base / "molstream", *words, environment=environment)
    assert "20 of 20 molecules embedded" in done.stderr
    assert np.isfinite(np.load(folder / "vectors.npy")).all()
    # Its server is gone.
    words = ["embed", "export=hf://org/other", "input=molecules.csv", "output=other.npy"]
    last = ran(folder, base / "molstream", *words, code=1, environment=environment).stderr.splitlines()[-1]
    assert "hf://org/other cannot be downloaded: " in last
    assert "Check the network and run the same command again" in last


def test_a_base_installation_has_the_command_embed(base, folder, export):
    words = ["embed", f"export={export}", "input=molecules.csv", "output=vectors.parquet"]
    assert "20 of 20 molecules embedded" in ran(folder, base / "molstream", *words).stderr
    program = f"from molstream.cli.main import main\nassert main({words!r}) == 0\n{CHECK}"
    ran(folder, base / "python", "-c", program)


def test_a_base_installation_has_the_help_of_every_command(base, folder):
    for command in ("", *COMMANDS):
        done = ran(folder, base / "molstream", *command.split(), "--help")
        assert done.stdout.startswith("usage: molstream")
        assert done.stderr == ""
    for words in (["--version"], ["pretrain", "run_dir=a", "model=base", "--cfg"], ["doctor"]):
        assert ran(folder, base / "python", "-m", "molstream", *words).stdout


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        ("preprocess input=molecules.csv output=dataset", "ray", "preprocess"),
        ("report RUN", "matplotlib", "report"),
    ],
)
def test_a_base_installation_names_the_extra_of_what_it_lacks(base, folder, small_run, words, package, extra):
    done = ran(folder, base / "molstream", *words.replace("RUN", str(small_run)).split(), code=1)
    name = words.split()[0]
    last = done.stderr.splitlines()[-1]
    assert last == f"error: '{name}' needs {package}: pip install 'molstream[{extra}]'."
    assert "Traceback" not in done.stderr


def test_with_the_extra_preprocess_it_prepares_datasets(wheel, folder):
    programs = environment_with(wheel, folder / "environment", "preprocess")
    words = ["preprocess", "input=molecules.csv", "output=dataset", "ray.num_cpus=1"]
    program = f"from molstream.cli.main import main\nassert main({words!r}) == 0\n{CHECK}"
    assert "20 molecules" in ran(folder, programs / "python", "-c", program).stdout
    # Nothing is left to do, but everything is read again.
    assert "20 molecules" in ran(folder, programs / "molstream", *words).stdout
