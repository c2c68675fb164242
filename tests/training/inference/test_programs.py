"""Programs of an export: ONNX and ``torch.export`` give the vectors of PyTorch, on 500 molecules, for any sizes."""

import importlib.util
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from molstream.errors import ConfigError
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule, Rejection
from molstream.training.checkpoint.exported import CONFIG_FILE, FILES, ONNX_FILE, PROGRAM_FILE
from molstream.training.data.collate import collate_samples
from molstream.training.inference import programs
from molstream.training.inference.config import ExportConfig
from molstream.training.inference.export import export_run
from molstream.training.inference.pretrained import load_pretrained
from molstream.training.inference.programs import require_programs, write_programs
from molstream.training.models.config import BlendTransformerConfig, GINConfig, ModelConfig, SchNetConfig
from molstream.training.models.encoders import Encoders, encode
from molstream.training.models.padded import PaddedMolecules
from tests.support.datasets import screened_drugs
from tests.support.exports import SMALL
from tests.support.padding import padded

GRAPHS = FeaturizeConfig(descriptors="none")
GRAPHS = replace(GRAPHS, conformers=replace(GRAPHS.conformers, num_conformers=0))
Vectors = Callable[[PaddedMolecules], np.ndarray]
OTHERS = {
    "gin": GINConfig(hidden=16, num_layers=2),
    "blend_transformer": BlendTransformerConfig(**{**SMALL, "num_layers": 1}),
}


@pytest.fixture(scope="module")
def whole(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the run with both programs."""
    output = tmp_path_factory.mktemp("programs") / "encoder"
    return export_run(
        ExportConfig(run_dir=str(small_run), output=str(output), purpose="any", include=["onnx", "torch_export"])
    )


@pytest.fixture(scope="module")
def samples() -> list[MoleculeSample]:
    """500 screened molecules, and methane, which has no bond."""
    records = [RawMolecule(text, "smiles", "nci", row) for row, text in enumerate(["C", *screened_drugs(560)])]
    found = [featurize(record, GRAPHS) for record in records]
    return [sample for sample in found if not isinstance(sample, Rejection)][:501]


def batches(samples: Sequence[MoleculeSample]) -> Iterator[list[MoleculeSample]]:
    """The first alone, and then all in batches of several sizes."""
    yield list(samples[:1])
    for start in range(0, len(samples), 64):
        yield list(samples[start : start + 64])


def of_onnx(file: Path) -> Vectors:
    session = onnxruntime.InferenceSession(file)
    return lambda molecules: session.run(None, {name: t.numpy() for name, t in molecules._asdict().items()})[0]


def of_torch(file: Path) -> Vectors:
    program = torch.export.load(file).module()
    return lambda molecules: program(*molecules).detach().numpy()


def assert_equal(samples: Sequence[MoleculeSample], encoder: torch.nn.Module, found: Sequence[Vectors]) -> None:
    """Compare vectors to 1e-5 with those of an encoder and its readout."""
    for some in batches(samples):
        batch = collate_samples(some)
        with torch.inference_mode():
            nodes = encode(encoder, "2d", batch)
            expected = encoder.readout(nodes, batch.batch, batch.num_graphs).numpy()  # pyright: ignore[reportCallIssue]
        for vectors in found:
            np.testing.assert_allclose(vectors(padded(some)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_programs_of_a_run_give_the_vectors_of_500_molecules(whole, samples):
    assert len(samples) == 501
    encoder = load_pretrained(whole, representation="2d").encoders["2d"]
    assert_equal(samples, encoder, [of_onnx(whole / ONNX_FILE), of_torch(whole / PROGRAM_FILE)])
    assert {ONNX_FILE, PROGRAM_FILE} < set(json.loads((whole / CONFIG_FILE).read_text())[FILES])


@pytest.mark.parametrize("name", ["gin", pytest.param("blend_transformer", marks=pytest.mark.slow)])
def test_other_encoders_can_be_programs_too(name, samples, tmp_path):
    model = ModelConfig(**{name: replace(OTHERS[name], readout="mean_sum_max")})
    torch.manual_seed(1)
    encoders = Encoders(model).eval()
    write_programs(["onnx", "torch_export"], model, encoders.state_dict(), tmp_path)
    found = [of_onnx(tmp_path / ONNX_FILE), of_torch(tmp_path / PROGRAM_FILE)]
    assert_equal(samples, encoders.encoder("2d"), found)


@pytest.mark.slow
def test_a_program_holds_no_pickle(whole):
    with zipfile.ZipFile(whole / PROGRAM_FILE) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert len(contents) > 5
    # What is pickled ends with a stop, and begins with the number of a protocol or is a zip of torch.save.
    assert [n for n, c in contents.items() if c.startswith((b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"))] == []


@pytest.mark.slow
def test_onnx_needs_no_torch(whole, tmp_path):
    """The example of the docs, without the rest of molstream."""
    page = (Path(__file__).parents[3] / "docs" / "publish.md").read_text("utf-8")
    (example,) = (block.partition("```")[0] for block in page.split("```python\n")[1:] if "onnxruntime" in block)
    assert sum(bool(line.strip()) for line in example.splitlines()) <= 30
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "programs").symlink_to(whole)
    check = "\nimport sys\nassert 'torch' not in sys.modules\nnp.save('found.npy', embed(['CCO', 'C', 'c1ccccc1O']))\n"
    subprocess.run([sys.executable, "-c", example + check], cwd=tmp_path, check=True, timeout=120)
    found = np.load(tmp_path / "found.npy")
    some = [featurize(text, GRAPHS) for text in ("CCO", "C", "c1ccccc1O")]
    assert_equal(some, load_pretrained(whole, representation="2d").encoders["2d"], [of_onnx(whole / ONNX_FILE)])
    np.testing.assert_allclose(found, of_onnx(whole / ONNX_FILE)(padded(some)), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_written_is_refused_before_the_work(monkeypatch):
    graphs = ModelConfig(gin=GINConfig())
    require_programs(["heads"], ModelConfig(schnet=SchNetConfig()))
    with pytest.raises(ConfigError, match="the model has no 2D encoder"):
        require_programs(["onnx"], ModelConfig(schnet=SchNetConfig()))
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        require_programs(["torch_export"], graphs)
        with pytest.raises(ConfigError, match=r"needs onnx and onnxscript: pip install 'molstream\[onnx\]'"):
            require_programs(["onnx"], graphs)


def test_weights_that_one_file_cannot_hold_are_refused(monkeypatch, tmp_path):
    model = ModelConfig(gin=GINConfig(hidden=8, num_layers=1))
    monkeypatch.setattr(programs, "LARGEST_ONNX", 1000)
    with pytest.raises(ConfigError, match="a file of ONNX holds at most 2 GiB"):
        write_programs(["onnx"], model, Encoders(model).state_dict(), tmp_path)
