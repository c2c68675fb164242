"""Readouts against numpy, molecule by molecule; encoders truncated after some of their layers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch_geometric.utils import scatter

from molstream.errors import ConfigError
from molstream.training.models.config import READOUT_PARTS
from molstream.training.models.encoders import Encoders, truncate
from molstream.training.models.readout import READOUTS
from tests.support.molecules import AWKWARD, DRUGS, model_config, molecule_batch

BATCH = molecule_batch([*DRUGS[:4], *AWKWARD])


@pytest.mark.parametrize("name", READOUTS)
def test_a_readout_pools_every_molecule_by_itself(name):
    nodes = torch.randn(BATCH.num_nodes, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = READOUTS[name](nodes, BATCH.batch, BATCH.num_graphs).numpy()
    for k, (start, end) in enumerate(zip(BATCH.ptr[:-1], BATCH.ptr[1:])):
        atoms = nodes[start:end].numpy()
        parts = {"mean": atoms.mean(0), "sum": atoms.sum(0), "max": atoms.max(0)}
        if name == "mean_sum_max":
            parts["sum"] = parts["sum"] / 20
        np.testing.assert_allclose(rows[k], np.concatenate([parts[part] for part in READOUT_PARTS[name]]), rtol=1e-12)


def test_gradients_of_the_maximum_are_those_of_torch_geometric():
    nodes = torch.randn(BATCH.num_nodes, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.randn(BATCH.num_graphs, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = []
    for pool in (READOUTS["max"], lambda x, index, n: scatter(x, index, 0, n, "max")):
        x = nodes.clone().requires_grad_()
        (pool(x, BATCH.batch, BATCH.num_graphs) * weight).sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found)


CASES = [
    ("tiny", {}),
    ("paper_tiny", {}),
    ("tiny", {"geometry_transformer": None, "painn": {"hidden": 16}}),
    ("tiny", {"geometry_transformer": None, "comenet": {"hidden": 16}}),
]


@pytest.mark.parametrize(("preset", "changes"), CASES)
def test_a_truncated_encoder_is_a_shorter_one_with_the_same_weights(preset, changes):
    config = replace(model_config(preset), **changes)
    encoders = Encoders(config).eval()
    lengths = {name: len(encoders_layers(encoders, name)) for name in ("encoder_2d", "encoder_3d")}
    whole = {name: getattr(encoders, name) for name in lengths}
    expected = {"encoder_2d": encoders.nodes_2d(BATCH), "encoder_3d": encoders.nodes_3d(BATCH)}
    for name, length in lengths.items():
        truncate(whole[name], length)
    torch.testing.assert_close(encoders.nodes_2d(BATCH), expected["encoder_2d"], rtol=0, atol=0)
    for name, length in lengths.items():
        kept = {key: value.clone() for key, value in whole[name].state_dict().items()}
        truncate(whole[name], length - 1)
        assert all(torch.equal(kept[key], value) for key, value in whole[name].state_dict().items())
        assert len(encoders_layers(encoders, name)) == length - 1
        found = encoders.nodes_2d(BATCH) if name == "encoder_2d" else encoders.nodes_3d(BATCH)
        assert found.shape == expected[name].shape
        assert not torch.allclose(found, expected[name])
        with pytest.raises(ConfigError, match=rf"num_layers={length}: expected 1 to {length - 1}"):
            truncate(whole[name], length)


def encoders_layers(encoders, name):
    encoder = getattr(encoders, name)
    return encoder.get_submodule(encoder.stacks[0])
