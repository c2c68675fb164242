"""A package from outside adds a command, an input format, an encoder and two objectives, without a fork."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from molstream.cli import main as cli
from molstream.training.metrics.records import read_metrics
from tests.support.datasets import SMILES

PACKAGE = '''
"""Things that a user might add to molstream."""

import torch
from torch import nn

from molstream.cli.command import run_command
from molstream.cli.main import Command
from molstream.config import configuration
from molstream.pipeline.readers.base import Format, Layout, Molecule, by_bytes
from molstream.pipeline.readers.text import lines
from molstream.preprocessing.descriptors import DESCRIPTORS_V1
from molstream.training.models.config import Readout
from molstream.training.models.readout import READOUTS
from molstream.training.objectives.base import Objective, Term


@configuration
class HelloConfig:
    """Greet somebody."""

    name: str = "world"
    """Who is greeted."""


def main(words):
    return run_command("hello", HelloConfig, lambda config: print(f"hello {config.name}"), words)


hello = Command("molecules_plus", "greet somebody")

stars = Format((".stars",), lambda where, path, config: Layout(), by_bytes(lines),
               lambda record, layout: Molecule(record.decode().strip(" *\\n"), "smiles", ()))


@configuration
class ElementsConfig:
    """An encoder that knows nothing but elements."""

    hidden: int = 64
    """Width of the atom representations."""
    readout: Readout = "mean"
    """How atoms are pooled to a molecule."""


class Elements(nn.Module):
    Config, modality = ElementsConfig, "3d"

    def __init__(self, config):
        super().__init__()
        self.embedding = nn.Embedding(119, config.hidden)
        self.readout = READOUTS[config.readout]

    def forward(self, z, pos, batch, generator=None):
        return self.embedding(z)


@configuration
class SizeConfig:
    """Predict the number of heavy atoms, as the dataset's descriptors say it."""

    weight: float = 1.0
    """Weight of the objective in the loss."""


class Size(Objective):
    Config = SizeConfig
    required_fields = frozenset({"atom_features", "descriptors"})
    heavy_atoms = DESCRIPTORS_V1.index("HeavyAtomCount")

    def __init__(self, config, model, labels):
        super().__init__()
        self.head = nn.Linear(model.hidden_3d, 1)

    def terms(self, batch, encoders, generator):
        nodes = encoders.encoder_3d(batch.x[:, 0], batch.pos, batch.batch, generator=generator)
        pooled = encoders.encoder_3d.readout(nodes, batch.batch, batch.num_graphs)
        # The rehearsed batch has none.
        size = batch.descriptors[:, [self.heavy_atoms]].nan_to_num(1.0).log()
        error = (self.head(pooled) - size).square().mean() + 0.0 * torch.rand((), generator=generator)
        return {"size": Term(1.0, error, {"error": error})}
'''

ENTRY_POINTS = """
[molstream.commands]
hello = molecules_plus:hello

[molstream.formats]
stars = molecules_plus:stars

[molstream.encoders]
elements = molecules_plus:Elements

[molstream.objectives]
size = molecules_plus:Size
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package as an installer leaves it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "molecules_plus.py").write_text(PACKAGE)
    info = folder / "molecules_plus-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: molecules-plus\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def molstream(site: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command where the package is installed."""
    paths = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "molstream", *words]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == code, f"{words}\n{result.stdout}\n{result.stderr}"
    return result


def test_a_command_is_listed_helps_and_runs(site):
    assert "greet somebody" in molstream(site, "--help").stdout
    assert "Who is greeted. [text, default world]" in molstream(site, "hello", "--help").stdout
    assert molstream(site, "hello", "name=you").stdout == "hello you\n"


@pytest.mark.slow
def test_a_format_is_read(site, tmp_path):
    (tmp_path / "molecules.stars").write_text("".join(f"** {smiles} **\n" for smiles in SMILES))
    output = tmp_path / "dataset"
    molstream(site, "preprocess", f"input={tmp_path / 'molecules.stars'}", f"output={output}", "conformers=none")
    counts = json.loads((output / "manifest.json").read_text())["counts"]
    assert counts["in"] == counts["written"] + counts["duplicates"] == len(SMILES)


@pytest.mark.slow
def test_an_encoder_and_an_objective_are_trained_beside_ours(site, dataset, tmp_path):
    """Each objective is logged by its name, and the noise of the first is what it is without the second."""
    settings = [f"data.path={dataset}", "model=tiny", "steps=3", "data.lanes=2", "data.micro_batch=8"]
    both = ["objective=[moleculesde,size]", "objective.size.weight=0.5"]
    molstream(site, "pretrain", *settings, f"run_dir={tmp_path / 'alone'}")
    molstream(site, "pretrain", *settings, f"run_dir={tmp_path / 'both'}", *both)
    alone, together = read_metrics(tmp_path / "alone")[0], read_metrics(tmp_path / "both")[0]
    assert together["train/moleculesde/loss"] == pytest.approx(alone["train/loss"], rel=1e-6)
    assert together["train/moleculesde/contrastive"] == alone["train/contrastive"]
    assert together["train/size/loss"] == together["train/size/error"] > 0
    summed = together["train/moleculesde/loss"] + 0.5 * together["train/size/loss"]
    assert together["train/loss"] == pytest.approx(summed, rel=1e-6)
    run = tmp_path / "encoder"
    molstream(
        site, "pretrain", *settings, f"run_dir={run}", "model/encoder_3d=elements", "objective=[size,moleculesde]"
    )
    assert "elements:\n    hidden: 64" in (run / "config.yaml").read_text()
    assert "geometry_transformer" not in (run / "config.yaml").read_text()
    molstream(site, "export", f"run_dir={run}")
    assert "elements (3d)" in molstream(site, "inspect", str(run / "export")).stdout


def test_what_is_not_installed_is_refused_by_name(site, dataset, tmp_path):
    refused = molstream(site, "pretrain", f"run_dir={tmp_path}", "objective=[moleculesde,sise]", code=2)
    assert "objective=sise: no such option. Did you mean 'size'?" in refused.stderr


def test_a_line_in_the_table_adds_a_command(monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "again", cli.COMMANDS["doctor"]._replace(summary="the doctor again"))
    assert cli.main(["--help"]) == 0
    assert "the doctor again" in capsys.readouterr().out
    assert cli.main(["again", "gpus=0"]) == 2
