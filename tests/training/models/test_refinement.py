"""Colour refinement against tuples of what an atom sees, and GIN with merged rows against GIN without."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.training.models import gin as gin_module
from molstream.training.models import refinement
from molstream.training.models.config import GINConfig
from molstream.training.models.gin import GIN
from molstream.training.models.refinement import Kinds, refined_views, whole_view
from tests.support.molecules import AWKWARD, DRUGS, molecule_batch, seeded

SMALL = GINConfig(hidden=24, num_layers=4)
ALIKE = ["CCCCCCCC", "CCCCCC", "c1ccccc1", "c1ccccc1C", "CC(C)(C)C", "CC(C)C", *AWKWARD, *DRUGS[:4], *DRUGS[:2]]


def numbered(colours: list) -> list[int]:
    """Each colour by the first atom that has it."""
    return [colours.index(colour) for colour in colours]


def plain_refinement(colours: list, edges: list[tuple[int, int, int]], num_layers: int) -> list[list[int]]:
    """After each layer the first atom of the same colour; a colour is the own one and the sorted ones it sees."""
    found = []
    for _ in range(num_layers):
        seen = [sorted((colours[i], kind) for i, j, kind in edges if j == atom) for atom in range(len(colours))]
        colours = numbered(list(zip(colours, seen, strict=True)))
        found.append(colours)
    return found


def assert_refines(atom_values: torch.Tensor, edge_index: torch.Tensor, bond_values: torch.Tensor) -> None:
    edges = [(i, j, kind) for (i, j), kind in zip(edge_index.T.tolist(), bond_values.tolist(), strict=True)]
    expected = plain_refinement(numbered(atom_values.tolist()), edges, 3)
    for num_layers in (1, 2, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(refinement, "MERGED_SHARE", 1.0)
            found, row = refined_views(Kinds.of(atom_values), edge_index, Kinds.of(bond_values), num_layers)
        assert numbered(row.tolist()) == expected[num_layers - 1]
        assert found[-1].multiplicity.tolist() == torch.bincount(row).tolist()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_atoms_are_one_kind_where_they_see_the_same(data):
    num_atoms = data.draw(st.integers(1, 9))
    atom = st.integers(0, num_atoms - 1)
    bonds = data.draw(st.lists(st.tuples(atom, atom, st.integers(0, 1)), max_size=12))
    both = [bond for i, j, kind in bonds if i != j for bond in ((i, j, kind), (j, i, kind))]
    edges = torch.tensor(both, dtype=torch.long).view(-1, 3).T
    kinds = torch.tensor(data.draw(st.lists(st.integers(0, 1), min_size=num_atoms, max_size=num_atoms)))
    assert_refines(kinds.unsqueeze(1), edges[:2], edges[2:].T)


def test_molecules_are_refined():
    batch = molecule_batch(ALIKE)
    assert_refines(batch.x, batch.edge_index, batch.edge_attr)


def test_kinds_differ_in_every_column():
    features = torch.cartesian_prod(torch.arange(20), torch.arange(20), torch.arange(20))
    kinds = Kinds.of(torch.cat([features, features]))
    assert torch.equal(kinds.number[: len(features)], kinds.number[len(features) :])
    assert torch.equal(kinds.example.sort().values, torch.arange(len(features)))
    assert torch.equal(kinds.number[kinds.example], torch.arange(len(features)))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["none", "some", "all"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("smiles", [ALIKE, ["C", "C", "O", "N", "S"], ["CCO"]], ids=["alike", "no_bonds", "one"])
def test_merged_rows_change_nothing_in_float64(share, training, smiles, monkeypatch):
    batch = molecule_batch(smiles)
    weights = torch.randn(batch.num_nodes, SMALL.hidden, dtype=torch.float64, generator=seeded())
    apart = lambda atoms, edge_index, bonds, layers: (  # noqa: E731
        [whole_view(edge_index, len(batch.x))] * layers,
        torch.arange(len(batch.x)),
    )
    kinds = lambda value: Kinds(torch.arange(len(value)), torch.arange(len(value)))  # noqa: E731
    results, counts = [], []
    for merged in (True, False):
        torch.manual_seed(0)
        gin = GIN(SMALL).double().train(training)
        with torch.no_grad():
            for number, buffer in enumerate(gin.buffers()):
                if buffer.is_floating_point():
                    buffer.add_(torch.rand(buffer.shape, generator=seeded(number), dtype=torch.float64))
        if merged:
            monkeypatch.setattr(refinement, "MERGED_SHARE", share)
            norms = [layer.norm for layer in gin.layers]
            for norm in norms:
                norm.register_forward_hook(lambda module, inputs, output: counts.append(len(output)))
        else:
            monkeypatch.setattr(gin_module, "refined_views", apart)
            monkeypatch.setattr(gin_module.Kinds, "of", kinds)
        output = gin(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
        (output * weights).sum().backward()
        gradients = [parameter.grad for parameter in gin.parameters()]
        results.append([output.detach(), *gradients, *(b for b in gin.buffers() if b.is_floating_point())])
        results[-1] += [layer.norm.num_batches_tracked.double() for layer in gin.layers]
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)
    if smiles is ALIKE:
        assert (counts[0] < batch.num_nodes) == (share > 0.0)
        assert (counts[-1] < batch.num_nodes) == (share == 1.0)


def test_a_plain_view_is_what_dropout_and_other_devices_get():
    batch = molecule_batch(DRUGS[:3])
    gin = GIN(GINConfig(hidden=24, num_layers=2, dropout=0.5)).double()
    view = whole_view(batch.edge_index, batch.num_nodes)
    h = gin.atom_embedding(batch.x)
    h = gin.layers[1].eval()(gin.layers[0].eval()(h, view, batch.edge_attr).relu(), view, batch.edge_attr)
    merged = gin.eval()(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
    torch.testing.assert_close(merged, h, rtol=1e-9, atol=1e-9)
