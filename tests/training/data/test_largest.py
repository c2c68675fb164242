"""The rehearsed batch is as large as any of the dataset's, and models take it."""

import pytest
import torch

from molstream.training.data.largest_batch import largest_batch
from molstream.training.module import build_module
from tests.support.molecules import objective_config, seeded, tiny_model


def histograms(heavy_atoms: dict[str, int], atoms_per_heavy_atom: float = 1.0) -> dict[str, dict[str, int]]:
    """As a manifest has them."""
    heavy = sum(int(size) * count for size, count in heavy_atoms.items())
    return {"heavy_atoms": heavy_atoms, "elements": {"C": round(heavy * atoms_per_heavy_atom)}}


def test_it_has_the_sizes_of_the_largest_molecules():
    batch = largest_batch(histograms({"9": 2, "1": 4, "30": 1, "2": 1}), molecules=5, targets=3, descriptors=7)
    assert batch.ptr.diff().tolist() == [30, 9, 9, 2, 1]
    assert batch.y.shape == (5, 3)
    assert batch.descriptors.shape == (5, 7)
    assert batch.edge_index.shape[1] == 2 * (30 + 9 + 9)
    assert torch.equal(batch.edge_index[:, 0::2], batch.edge_index[:, 1::2].flip(0))
    assert (torch.bincount(batch.edge_index[0], minlength=51)[:48] == 2).all()
    bonds = (batch.pos[batch.edge_index[0]] - batch.pos[batch.edge_index[1]]).norm(dim=1)
    assert 1.0 < bonds.min() < bonds.max() < 2.0
    assert largest_batch(histograms({"10": 8}, 2.1), molecules=4, targets=0).ptr.diff().tolist() == [21] * 4
    assert largest_batch(histograms({"10": 3}), molecules=4, targets=0).num_graphs == 3


@pytest.mark.parametrize("objective", ["moleculesde", "moleculesde_paper"])
def test_objectives_take_it(objective):
    module = build_module(tiny_model(objective), objective_config(objective), 0)
    batch = largest_batch(histograms({"40": 2, "3": 1, "2": 1, "1": 1}), molecules=5, targets=0)
    assert torch.isfinite(module(batch, seeded(0)).loss)
