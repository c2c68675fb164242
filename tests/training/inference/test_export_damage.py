"""Exports that are not what was written, or that nobody can have trained, are refused before they give a vector."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from molstream.errors import CheckpointError, MolstreamError
from molstream.training.checkpoint import exported
from molstream.training.checkpoint.load import initial_weights
from molstream.training.inference.export import load_export
from molstream.training.module import build_module
from tests.support.molecules import model_config, objective_config
from tests.support.road import GOLDEN

SEALED_FILES = (exported.CONFIG_FILE, exported.WEIGHTS_FILE)
OLDER = GOLDEN / "export"
"""An export of format 1, which has no checksums."""


@pytest.fixture
def copy(export: Path, tmp_path: Path) -> Path:
    shutil.copytree(export, tmp_path / "copy")
    return tmp_path / "copy"


def sealed_again(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change config.json as one would who knows of the seal."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_bytes(exported.sealed(config, folder))


def with_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights of an export; one with checksums is sealed again."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if exported.FILES in json.loads((folder / "config.json").read_text()):
        sealed_again(folder, lambda config: None)


def test_no_flipped_bit_of_200_is_loaded(copy):
    random = Random(15)
    for number in range(200):
        file = copy / SEALED_FILES[number % 2]
        content = file.read_bytes()
        place, bit = random.randrange(len(content)), random.randrange(8)
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        with pytest.raises(CheckpointError):
            load_export(copy)
        file.write_bytes(content)
    assert load_export(copy).config["purpose"] == "test"


def test_neither_white_space_nor_order_of_config_json_may_differ(copy):
    file = copy / "config.json"
    text = file.read_text()
    for changed in (json.dumps(json.loads(text)), text + "\n", text.replace("  ", "\t", 1)):
        file.write_text(changed)
        with pytest.raises(CheckpointError, match=r"config\.json was changed after it was written: its fingerprint"):
            load_export(copy)


@pytest.mark.parametrize("version", [1, 2])
def test_a_version_without_checksums_does_not_unseal_an_export(copy, version):
    file = copy / "config.json"
    file.write_text(file.read_text().replace('"format_version": 4', f'"format_version": {version}'))
    with pytest.raises(CheckpointError):
        load_export(copy)


def test_weights_of_another_export_are_refused(copy, export):
    with_weights(copy, lambda weights: weights["encoder_2d.atom_embedding.weight"].neg_())
    shutil.copy(export / "config.json", copy)
    with pytest.raises(CheckpointError, match=r"model\.safetensors differs from its checksum in config\.json"):
        load_export(copy)


@pytest.mark.parametrize("source", ["export", "older"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update({k: torch.zeros_like(v) for k, v in w.items()}), "all weights are zero"),
        (lambda w: matrix(w).fill_(0), r"weight\S* is zero everywhere"),
        (lambda w: matrix(w).view(-1)[3:4].fill_(torch.nan), r"weight\S* is not finite everywhere"),
        (lambda w: matrix(w).view(-1)[-1:].fill_(-torch.inf), "not finite everywhere"),
        (lambda w: next(v for v in w.values() if v.ndim == 1).fill_(torch.inf), "not finite everywhere"),
        (lambda w: w.update({k: v.double() for k, v in w.items()}), "has dtype float64, the model float32"),
        (lambda w: w.update({k: v.bfloat16() for k, v in w.items()}), "has dtype bfloat16, the model float32"),
        (lambda w: w.update({k: v.int() for k, v in w.items()}), "has dtype int32, the model float32"),
        (lambda w: w.update({k: v.view(1, *v.shape) for k, v in w.items()}), "has shape"),
        (lambda w: w.pop(next(iter(w))), "missing encoder"),
        (lambda w: w.update(other=torch.ones(1)), "unexpected other"),
    ],
)
def test_weights_that_no_model_can_have_are_refused_in_every_format(export, tmp_path, source, change, message):
    folder = tmp_path / "copy"
    shutil.copytree(export if source == "export" else OLDER, folder)
    with_weights(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_export(folder)


def matrix(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """The largest matrix."""
    return max((tensor for tensor in weights.values() if tensor.ndim > 1), key=torch.numel)


def test_biases_may_be_zero(copy):
    with_weights(copy, lambda weights: [tensor.zero_() for name, tensor in weights.items() if name.endswith("bias")])
    load_export(copy)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_layers": 10**9}, "num_layers=1000000000: expected at most 1000"),
        ({"num_layers": 10**6, "hidden": 10**6}, "hidden=1000000: expected at most 65536"),
        ({"num_heads": 10**9}, "num_heads=1000000000: expected at most 1024"),
        ({"hidden": 65_536, "num_layers": 1000}, r"GiB free\. Its largest numbers are model.*\.hidden=65536"),
        ({"feed_forward": 65_536, "hidden": 65_536}, r"takes at least \d+\.\d+ GiB of memory"),
    ],
)
def test_sizes_that_no_machine_has_are_refused_from_their_numbers(copy, change, named):
    sealed_again(copy, lambda config: config["model"]["graph_transformer"].update(change))
    with pytest.raises(CheckpointError, match=named):
        load_export(copy)


def test_a_new_run_does_not_start_from_a_damaged_export(copy):
    own = build_module(model_config("tiny"), objective_config("moleculesde"), 0).state_dict()
    initial_weights(own, str(copy))
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(CheckpointError, match="differs from its checksum"):
        initial_weights(own, str(copy))
    (copy / "config.json").unlink()
    with pytest.raises(MolstreamError, match="is not an export"):
        initial_weights(own, str(copy))


def test_a_test_export_is_warned_of_once(copy, capsys):
    for _ in range(3):
        load_export(copy)
    assert capsys.readouterr().err.count("is an export for tests only") == 1
