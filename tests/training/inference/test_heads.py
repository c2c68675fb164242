"""Heads of an export: what was exported with them generates as the run does, and they are as strict as the weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from molstream import generate, load_pretrained
from molstream.cli.main import main
from molstream.errors import CheckpointError, ConfigError
from molstream.training.checkpoint.exported import CONFIG_FILE, FILES, HEADS_FILE, WEIGHTS_FILE, sealed
from molstream.training.data.labels import Labels
from molstream.training.diffusion.config import SamplerConfig
from molstream.training.hubs.source import push_target
from molstream.training.inference.config import ExportConfig
from molstream.training.inference.export import export_run
from molstream.training.inference.heads import labels_of, write_heads
from molstream.training.run.directory import RunDirectory
from tests.support.hub_server import TOKEN, hub_serving

FAST: dict[str, Any] = {"sampler": SamplerConfig(num_steps=4, eps=1e-3), "device": "cpu"}
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def complete(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the run with its heads."""
    output = tmp_path_factory.mktemp("complete") / "encoder"
    return export_run(ExportConfig(run_dir=str(small_run), output=str(output), purpose="pretrained", include=["heads"]))


@pytest.fixture
def copy(complete: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With an empty cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def positions(source: Path | str) -> np.ndarray:
    (found,) = generate(source, "CC(O)C#N", num_conformers=2, **FAST)
    assert found.mol is not None, found.failure
    return np.array([conformer.GetPositions() for conformer in found.mol.GetConformers()])


def with_heads(folder: Path, change: Callable[[Tensors], object]) -> None:
    """Change the heads of an export, and seal it again."""
    heads, labels = load_file(folder / HEADS_FILE), metadata(folder / HEADS_FILE)
    change(heads)
    save_file(heads, folder / HEADS_FILE, labels)
    seal(folder)


def seal(folder: Path) -> None:
    (folder / CONFIG_FILE).write_bytes(sealed(json.loads((folder / CONFIG_FILE).read_text()), folder))


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def test_an_export_with_heads_generates_what_the_run_generates(small_run, complete):
    np.testing.assert_array_equal(positions(complete), positions(small_run))
    assert set(json.loads((complete / CONFIG_FILE).read_text())[FILES]) == {WEIGHTS_FILE, HEADS_FILE}


def test_an_export_with_heads_is_evaluated_as_the_run_is(small_run, complete, dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert push_target(f"file://{tmp_path}/store", True, None).push(complete, True, None).changed
    options = ["molecules=4", "sampler.num_steps=2"]
    where = {small_run: small_run, complete: complete.parent, f"file://{tmp_path}/store": tmp_path}
    results = []
    for source, folder in where.items():
        line = ["evaluate", "bonds", f"run_dir={source}", f"dataset={dataset}", *options]
        assert main(line) == 0, capsys.readouterr()
        results.append(json.loads((folder / "bonds.json").read_text()))
    assert results[0]["molecules"] == 4
    assert results[1:] == results[:1] * 2


def test_a_push_carries_the_heads_and_only_generation_downloads_them(complete, export, tmp_path, home, capsys):
    url = f"file://{tmp_path}/store"
    assert push_target(url, True, None).push(complete, True, None).changed
    expected = load_pretrained(complete).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_pretrained(url).state_dict().items())
    assert not list(home.rglob(HEADS_FILE))
    np.testing.assert_array_equal(positions(url), positions(complete))
    assert len(list(home.rglob(HEADS_FILE))) == 1
    assert not push_target(url, True, None).push(complete, True, None).changed
    assert push_target(url, True, None).push(export, True, None).changed
    assert not (tmp_path / "store" / HEADS_FILE).exists()
    with pytest.raises(CheckpointError, match=rf"{url} has no heads\.safetensors: it can embed, but not generate"):
        generate(url, "C", **FAST)


def test_heads_of_hugging_face_are_pushed_and_pulled_by_name_and_generate_offline(complete, tmp_path, monkeypatch):
    from huggingface_hub import constants

    with hub_serving(tmp_path / "hf") as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        push_target("hf://org/whole", True, None).push(complete, True, None)
        load_pretrained("hf://org/whole")
        assert not list((tmp_path / "hf").rglob(HEADS_FILE))
        expected = positions(complete)
        np.testing.assert_array_equal(positions("hf://org/whole"), expected)
        assert hub.count("GET", "/cdn/") == 2
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        np.testing.assert_array_equal(positions("hf://org/whole"), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.pop(next(iter(h))), "missing moleculesde"),
        (lambda h: h.update(other=torch.ones(1)), "unexpected other"),
        (lambda h: h.update({k: v.view(1, *v.shape) for k, v in h.items()}), "has shape"),
        (lambda h: h.update({k: v.double() for k, v in h.items()}), "has dtype float64"),
        (lambda h: largest(h).view(-1)[5:6].fill_(torch.nan), "not finite everywhere"),
        (lambda h: h.update({k: torch.zeros_like(v) for k, v in h.items()}), "all weights are zero"),
    ],
)
def test_heads_that_are_not_those_of_the_model_are_refused_by_name(copy, change, message):
    with_heads(copy, change)
    with pytest.raises(CheckpointError, match=rf"(?s)heads\.safetensors.*{message}"):
        generate(copy, "C", **FAST)
    load_pretrained(copy)


def largest(heads: Tensors) -> torch.Tensor:
    return max((tensor for tensor in heads.values() if tensor.ndim > 1), key=torch.numel)


def test_a_flipped_bit_and_a_missing_file_are_refused(copy):
    file = copy / HEADS_FILE
    content = file.read_bytes()
    file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(CheckpointError, match=r"heads\.safetensors differs from its checksum in config\.json"):
        generate(copy, "C", **FAST)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"heads\.safetensors is missing"):
        generate(copy, "C", **FAST)


def test_heads_without_their_labels_or_networks_are_refused(copy):
    labels = metadata(copy / HEADS_FILE)
    save_file(load_file(copy / HEADS_FILE), copy / HEADS_FILE, {"format": "pt"})
    seal(copy)
    with pytest.raises(CheckpointError, match="its metadata do not describe the labels"):
        generate(copy, "C", **FAST)
    save_file(load_file(copy / HEADS_FILE), copy / HEADS_FILE, labels)
    config = json.loads((copy / CONFIG_FILE).read_text())
    del config["heads"]
    (copy / CONFIG_FILE).write_bytes(sealed(config, copy))
    with pytest.raises(CheckpointError, match="the key 'heads' is missing"):
        generate(copy, "C", **FAST)


def test_the_checksums_of_unknown_files_are_refused(copy):
    config = json.loads((copy / CONFIG_FILE).read_text())
    config[FILES]["../other"] = config[FILES][WEIGHTS_FILE]
    (copy / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"files names '\.\./other', which is no file of an export"):
        load_pretrained(copy)


def test_an_export_has_one_step(complete):
    with pytest.raises(ConfigError, match="is an export, which has one step"):
        generate(complete, "C", step=3, **FAST)


def test_the_labels_of_a_dataset_travel_with_the_heads(small_run, tmp_path):
    record = RunDirectory(small_run).dataset()
    write_heads(tmp_path / HEADS_FILE, {"objective.a": torch.ones(2), "encoders.b": torch.ones(3)}, record)
    assert list(load_file(tmp_path / HEADS_FILE)) == ["a"]
    found, expected = labels_of(tmp_path / HEADS_FILE), Labels.of(record)
    assert found.targets.names == expected.targets.names == ("value",)
    for name in ("mean", "deviation", "quantiles"):
        np.testing.assert_array_equal(getattr(found.targets, name), getattr(expected.targets, name))
    assert found.descriptors.names == expected.descriptors.names
